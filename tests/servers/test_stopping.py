"""How a server ends: what is under way is finished, nobody gets half an answer, and it is soon over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.journeys.running import Tenant
from tests.journeys.waiting import until
from tests.postgres import postgres_server
from tests.servers.cluster import Member, cluster

from tidemill.actions import logs
from tidemill.drivers.contract import Unreachable

BOUND = 30.0  # the server's own is 10; other tests may have the processor


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Member]:
    with cluster(tmp_path, "") as made:
        yield made.add()


@dataclass
class Connection:
    """One kept connection, on which bytes are what they are."""

    port: int
    answers: list[int] = field(default_factory=list)
    halves: list[bytes] = field(default_factory=list)
    ends: int = 0

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=BOUND)

    def ask(self, line: socket.socket, request: bytes) -> bytes:
        """A whole answer; b"" when the connection ended without a byte of one."""
        try:
            line.sendall(request)
            return self.read(line)
        except OSError:
            self.ends += 1
            return b""

    def read(self, line: socket.socket) -> bytes:
        got = b""
        while b"\r\n\r\n" not in got:
            more = line.recv(65536)
            if not more:
                if got:
                    self.halves.append(got)
                self.ends += 1
                return b""
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        headers = dict(part.lower().split(b": ", 1) for part in head.split(b"\r\n")[1:])
        length = int(headers[b"content-length"])
        while len(body) < length:
            more = line.recv(65536)
            if not more:
                self.halves.append(got + body)
                return b""
            body += more
        self.answers.append(int(head.split(b" ")[1]))
        return head + b"\r\n\r\n" + body


def launch_request(tenant: Tenant) -> bytes:
    body = json.dumps(tenant.request(type="tiny")).encode()
    return (
        f"POST /api/instance/create HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def test_nobody_gets_half_an_answer(server: Member) -> None:
    """Eight clients ask without a pause on connections they keep while the server is told to stop."""
    tenant = server.first_login()
    request = launch_request(tenant)
    over = threading.Event()
    clients = [Connection(server.port) for _ in range(8)]

    def go_on(client: Connection) -> None:
        while not over.is_set():
            try:
                line = client.open()
            except OSError:
                return  # it listens no more
            with closing(line):
                while not over.is_set():
                    answer = client.ask(line, request)
                    if not answer or b"connection: close" in answer.lower():
                        break

    threads = [threading.Thread(target=go_on, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    until("they are at it", lambda: sum(len(client.answers) for client in clients) > 50, 30)
    began = time.monotonic()
    assert server.stop(signal.SIGTERM, seconds=BOUND) == 0
    assert time.monotonic() - began < BOUND
    over.set()
    for thread in threads:
        thread.join(timeout=BOUND)
    assert [half for client in clients for half in client.halves] == []
    assert {status for client in clients for status in client.answers} == {200}
    accepted = sum(len(client.answers) for client in clients)
    server.start()
    body = {"pager": {"currentPage": 1, "pageSize": 1}}
    kept = tenant.post("/api/instance/list", body)["pager"]["totalEntries"]
    assert accepted <= kept <= accepted + sum(client.ends for client in clients)


def test_a_request_that_cannot_be_finished_is_told_to_come_again(server: Member) -> None:
    tenant = server.first_login()
    client = Connection(server.port)
    with closing(client.open()) as line:
        line.sendall(launch_request(tenant)[:-10])  # the rest is on its way, for ever
        time.sleep(0.2)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        answer = client.read(line)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 2" in answer.lower()
    assert b'"error": "stopping"' in answer
    assert server.process.wait(timeout=BOUND) == 0


def test_a_second_signal_ends_it_at_once(server: Member) -> None:
    client = Connection(server.port)
    with closing(client.open()) as line:
        line.sendall(launch_request(server.first_login())[:-10])
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until("it is stopping", lambda: "event=stopping" in server.log, 5)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=BOUND) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 8, "it waits for what cannot be finished"


def test_a_signal_while_it_starts_ends_it_too(server: Member) -> None:
    server.stop()
    server.process = server.spawn()
    until("it has its lock", lambda: str(server.process.pid) in lock(server), 30)  # type: ignore[union-attr]
    assert server.stop(signal.SIGTERM, seconds=BOUND) in {0, -signal.SIGTERM}


def lock(server: Member) -> str:
    return (server.folder / "server.lock").read_text()


@pytest.mark.slow
def test_a_database_that_hangs_does_not_keep_it(tmp_path: Path) -> None:
    with postgres_server() as postgres, cluster(tmp_path, postgres.new_database()) as made:
        server = made.add()
        pid = int((postgres.data / "postmaster.pid").read_text().split()[0])
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        for each in (pid, *children):
            send(each, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert server.stop(signal.SIGTERM, seconds=BOUND) in {0, 1}
            assert time.monotonic() - began < BOUND
        finally:
            for each in (*children, pid):
                send(each, signal.SIGCONT)


def send(process: int, number: signal.Signals) -> None:
    os.kill(process, number)


class Stream:
    """A log that is followed: what comes is put into it by the test."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.closed = False

    async def read(self) -> AsyncGenerator[bytes]:
        try:
            while (chunk := await self.queue.get()) is not None:
                if chunk == b"away":
                    raise Unreachable("away")
                yield chunk
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("chunks", "last"),
    [((b"a", b"b"), "the server is stopping"), ((b"a", None), "a"), ((b"a", b"away"), "stopped answering")],
)
async def test_a_log_that_is_followed_ends_with_its_server(
    chunks: tuple[bytes | None, ...], last: str
) -> None:
    stream, stopping = Stream(), asyncio.Event()
    for chunk in chunks:
        stream.queue.put_nowait(chunk)
    rest = stream.read()
    first = asyncio.ensure_future(anext(rest, b""))
    reader = logs._chained(first, rest, stopping)
    got = [await anext(reader)]
    asyncio.get_running_loop().call_later(0.1, stopping.set)
    async with asyncio.timeout(30):
        got += [chunk async for chunk in reader]
    assert last in got[-1].decode()
    await rest.aclose()
    assert stream.closed


async def test_a_log_that_never_pauses_ends_with_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "STOPPING", 0.1)
    stopping = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"."

    rest = endless()
    reader = logs._chained(asyncio.ensure_future(anext(rest, b"")), rest, stopping)
    stopping.set()
    async with asyncio.timeout(30):
        got = [chunk async for chunk in reader]
    assert "the server is stopping" in got[-1].decode()
