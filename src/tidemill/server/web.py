"""The HTTP server: it listens, and it ends without leaving anybody with half an answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.model.errors import Misconfigured

BACKLOG = 2048
LAST_REQUESTS = 0.5  # seconds for what is on its way on connections that are open
FINISH_SECONDS = 4  # for requests that were begun
CUT_SECONDS = 1.0  # for those that were not finished to be told so
TRY_AGAIN = b"2"  # seconds


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets at all addresses of ``host``. Raises Misconfigured."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = {(family, address[:2]) for family, _, _, _, address in found}
        return [
            socket.create_server((str(address[0]), int(address[1])), family=family, backlog=BACKLOG)
            for family, address in sorted(addresses)
        ]
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host} port {port} ({error.strerror}); is something else using it?"
        ) from None


class Web:
    """Serves ``app`` until it is drained."""

    def __init__(self, app: ASGIApp, sockets: list[socket.socket]) -> None:
        self._stopping = asyncio.Event()
        self._sockets = sockets
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                Draining(app, self._stopping),
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # api/callers.py knows whom to believe
                timeout_graceful_shutdown=FINISH_SECONDS,
            )
        )

    async def run(self) -> None:
        await self._uvicorn.serve(sockets=self._sockets)

    async def drain(self) -> None:
        """Take no new connection and finish with those that are open; :meth:`run` ends then."""
        self._stopping.set()
        for server in getattr(self._uvicorn, "servers", ()):
            server.close()
        await asyncio.sleep(LAST_REQUESTS)
        self._uvicorn.should_exit = True

    async def cut(self) -> None:
        """After :meth:`run`: let those who were not finished in time have their last word."""
        tasks = set(self._uvicorn.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=CUT_SECONDS)


class _Uvicorn(uvicorn.Server):
    """Signals are the business of the whole server (``stopping.py``), not of its HTTP part."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Draining:
    """While the server stops, every answer ends its connection, and no request goes without an answer."""

    def __init__(self, app: ASGIApp, stopping: asyncio.Event) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def last(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._stopping.is_set():
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, last)
        except asyncio.CancelledError:
            if started or not self._stopping.is_set():
                raise
            await _send_away(last)


async def _send_away(send: Send) -> None:
    said = {
        "message": "The server is stopping and could not finish this; it may have been done. Try again",
        "error": "stopping",
    }
    body = json.dumps(said).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"retry-after", TRY_AGAIN),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
