"""A socket of our own in front of the container engine, to be taken away, held up and given back.

The engine itself is never touched: others use it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

ENGINE = Path("/var/run/docker.sock")
CHUNK = 64 * 1024


class EngineProxy:
    """Passes bytes on from ``path`` to the engine at the socket ``engine``.

    ``down`` is an engine that was stopped, ``delay`` seconds is how late each of the client's
    messages gets to it (``forever``: not at all, and the client is left waiting).
    """

    forever = float("inf")

    def __init__(self, path: Path, engine: Path = ENGINE) -> None:
        self.path = path
        self._engine = engine
        self.delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._thread.start()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def up(self) -> None:
        self._run(self._up())

    def down(self) -> None:
        """As a stopped engine: nobody listens, and all connections are cut."""
        self._run(self._down())

    def close(self) -> None:
        self.down()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _up(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)
        for writer in list(self._open):
            writer.transport.abort()

    async def _end(self) -> None:
        """Let every connection's task find out that it was cut."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
            self._open.add(engine_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, engine_writer, held=True),
                    self._pass(engine_reader, writer, held=False),
                )
            finally:
                self._open.discard(engine_writer)
                engine_writer.transport.abort()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, held: bool) -> None:
        while data := await reader.read(CHUNK):
            while held and self.delay == self.forever:
                await asyncio.sleep(0.05)
            if held:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
