"""The line to a PostgreSQL, in our hands: it can be cut, go dead, or lose what the server answers."""

from __future__ import annotations

import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from sqlalchemy.engine import make_url

SOCKET = ".s.PGSQL.5432"
COMMIT = b"COMMIT\0"


class Line:
    """Stands between a client and the server of ``url``; ``url`` of the line leads through it."""

    def __init__(self, url: str) -> None:
        server = make_url(url)
        self._server = str(Path(str(server.query["host"])) / SOCKET)
        self._folder = tempfile.TemporaryDirectory(prefix="line-")
        self.url = server.set(query={"host": self._folder.name}).render_as_string(hide_password=False)
        self.commits_to_lose = 0  # that many reach the server, and their answers nobody
        self.commits_to_stop = 0  # that many do not reach it
        self.commits = 0  # seen so far
        self.connections = 0
        self._flows = threading.Event()
        self._flows.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name) / SOCKET))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.revive()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._folder.cleanup()

    def go_dead(self) -> None:
        """From now on nothing arrives on either side, and nobody is told."""
        self._flows.clear()

    def revive(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """End every connection there is."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _hang_up(end)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:
                    client.close()
                    continue
                self.connections += 1
                self._pairs.append((client, server))
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if data.endswith(COMMIT):
                    self.commits += 1
                    if self.commits_to_stop:
                        self.commits_to_stop -= 1
                        break
                    if self.commits_to_lose:
                        self.commits_to_lose -= 1
                        _hang_up(source, socket.SHUT_WR)  # the answer will find nobody
                        target.sendall(data)
                        continue
                target.sendall(data)
        for end in (source, target):
            _hang_up(end)


def _hang_up(end: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with suppress(OSError):
        end.shutdown(how)
