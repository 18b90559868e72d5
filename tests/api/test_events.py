"""The stream of what happens: nothing missed, nothing twice, nobody else's, and at little cost."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, create_engine, insert, text
from sqlalchemy.engine import Engine
from tests.api.served import Served, served
from tests.stock import HandClock, Stocked

from tidemill.actions import events, news
from tidemill.api import events as routes
from tidemill.model.account import User
from tidemill.model.lifecycle import Event
from tidemill.server.web import Web, listening
from tidemill.store import instances, schema
from tidemill.store.database import RECORDED

SECONDS = 15


@dataclass
class Frame:
    id: str = ""
    event: str = ""
    data: Any = None
    comment: str = ""


@dataclass
class Stream:
    """An open stream, read as a browser reads it; ``last`` is what a browser would go on after."""

    response: httpx.Response
    last: str = ""
    seen: list[Frame] = field(default_factory=list)
    came: asyncio.Queue[Frame | None] = field(default_factory=asyncio.Queue)

    async def read(self) -> None:
        """Frames as they come; None at the end."""
        frame = Frame()
        async for line in self.response.aiter_lines():
            name, _, value = line.partition(": ")
            if not line:
                self.came.put_nowait(frame)
                frame = Frame()
            elif line.startswith(":"):
                frame.comment = line
            elif name == "data":
                frame.data = json.loads(value)
            elif name in {"id", "event"}:
                setattr(frame, name, value)
        self.came.put_nowait(None)

    async def frame(self) -> Frame:
        """The next frame, comments too. Raises EOFError at the end."""
        async with asyncio.timeout(SECONDS):
            frame = await self.came.get()
        if frame is None:
            raise EOFError
        self.last = frame.id or self.last
        self.seen.append(frame)
        return frame

    async def next(self) -> dict[str, Any]:
        """The data of the next event."""
        while True:
            frame = await self.frame()
            if frame.event:
                assert frame.event == "instance"
                assert frame.id == str(frame.data["seq"])
                return frame.data

    async def nothing(self, seconds: float = 0.6) -> None:
        """Fails when an event comes."""
        try:
            async with asyncio.timeout(seconds):
                event = await self.next()
        except TimeoutError:
            return
        raise AssertionError(event)

    async def rest(self) -> list[Frame]:
        """All frames until the stream ends."""
        found: list[Frame] = []
        try:
            while True:
                found.append(await self.frame())
        except EOFError:
            return found


@dataclass
class Live:
    """The application on a socket: a transport without one waits for an answer's end."""

    api: Served
    client: httpx.AsyncClient
    port: int

    @asynccontextmanager
    async def stream(
        self, query: str = "", *, user: User | None = None, headers: Mapping[str, str] = {}
    ) -> AsyncIterator[Stream]:
        said = headers if "X-API-Key" in headers else self.api.token(user) | dict(headers)
        async with self.client.stream("GET", f"/api/events{query}", headers=said) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = Stream(response)
            reading = asyncio.create_task(stream.read())
            try:
                opening = await stream.frame()
                assert opening.id.isdecimal()
                yield stream
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def tell(self, id: str, messages: Iterable[str]) -> None:
        """Lines of an instance's history, in one transaction."""

        def work(connection: Connection) -> None:
            instance = instances.get(connection, id)
            assert instance is not None
            for message in messages:
                instances.tell(connection, instance, instance.created_at, "told", message)

        await self.api.context.database.write(work)

    async def nobody_listens(self) -> None:
        """Until the server noticed that all are gone."""
        async with asyncio.timeout(SECONDS):
            while self.api.context.news._listeners:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def on_a_socket(api: Served) -> AsyncIterator[Live]:
    sockets = listening("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    web = Web(api.app, sockets)
    running = asyncio.create_task(web.run())
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=SECONDS, limits=limits
        ) as client:
            yield Live(api, client, port)
    finally:
        api.context.stopping.set()
        await web.drain()
        await running
        await web.cut()


@pytest.fixture
async def live(stocked: Stocked, clock: HandClock, keys: Path) -> AsyncIterator[Live]:
    async with served(stocked, clock, keys) as api:
        stocked.database.when_recorded(api.context.news.ring)
        async with on_a_socket(api) as made:
            yield made


async def test_what_happens_is_told_at_once(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "BEAT", 600.0)  # by the ring alone
    async with live.stream() as stream:
        assert stream.seen[0].comment.startswith(": what happens after event 0")
        id = await live.api.launch()
        told = await stream.next()
        at = told.pop("at")
        assert told == {
            "seq": int(stream.last),
            "event": "launch",
            "from": "Initializing",
            "to": "Initializing",
            "start": 1,
            "reason": "",
            "message": "",
            "instanceId": id,
            "instanceName": "my instance",
        }
        assert at.startswith("2026-03-01T12:00:00")
        await live.api.post("/api/instance/terminate", {"instanceId": id})
        assert (await stream.next())["to"] == "Stopping"
    await live.nobody_listens()


async def test_a_stream_goes_on_where_another_ended(live: Live) -> None:
    async with live.stream() as stream:
        pass
    first = await live.api.launch()  # while nobody listens, and before any event was seen
    async with live.stream(headers={"Last-Event-ID": stream.last}) as again:
        assert (await again.next())["instanceId"] == first
        last = again.last
    ids = [await live.api.launch() for _ in range(3)]
    async with live.stream("?after=0", headers={"Last-Event-ID": last}) as third:  # the header comes first
        assert [(await third.next())["instanceId"] for _ in range(3)] == ids
        await third.nothing()
    async with live.stream(f"?after={last}") as fourth:
        assert [(await fourth.next())["instanceId"] for _ in range(3)] == ids
    async with live.stream() as fifth:
        await fifth.nothing()


async def test_all_that_is_missed_is_told_however_much(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 7)
    monkeypatch.setattr(news, "MOST", 5)
    id = await live.api.launch()
    async with live.stream() as stream:
        for number in range(40):
            await live.tell(id, [str(number)])
        assert [(await stream.next())["message"] for _ in range(40)] == [str(each) for each in range(40)]
        await stream.nothing()
    async with live.stream("?after=0&follow=false") as whole:
        told = [frame.data["message"] for frame in await whole.rest()]
    assert told == ["", *(str(each) for each in range(40))]


async def test_tenants_are_apart(live: Live) -> None:
    api = live.api
    async with live.stream() as alices, live.stream(user=api.stocked.bob) as bobs:
        id = await api.launch()
        assert (await alices.next())["instanceId"] == id
        await bobs.nothing()
    async with live.stream("?after=0&follow=false", user=api.stocked.bob) as stream:
        assert await stream.rest() == []


async def test_one_instance_alone(live: Live) -> None:
    first, second = await live.api.launch(), await live.api.launch()
    async with live.stream(f"?instanceId={second}&after=0") as stream:
        assert (await stream.next())["instanceId"] == second
        await live.api.post("/api/instance/terminate", {"instanceId": first})
        await live.api.post("/api/instance/terminate", {"instanceId": second})
        assert (await stream.next())["instanceId"] == second
        await stream.nothing()


async def test_what_is_refused(live: Live) -> None:
    api = live.api
    id = await api.launch()
    bob = api.token(api.stocked.bob)
    for query, headers, status, error in (
        (f"?instanceId={id}", bob, 404, "instanceNotFound"),
        ("?instanceId=notebook-nothing", api.token(), 404, "instanceNotFound"),
        ("?instanceId=", api.token(), 404, "instanceNotFound"),
        ("?after=-1", api.token(), 400, "invalidQuery"),
        ("?after=x", api.token(), 400, "invalidQuery"),
        (f"?after={2**53 + 1}", api.token(), 400, "invalidQuery"),
        ("?follow=perhaps", api.token(), 400, "invalidQuery"),
        ("", api.token() | {"Last-Event-ID": "abc"}, 400, "invalidQuery"),
    ):
        answer = await live.client.get(f"/api/events{query}", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, error), query
    assert (await live.client.get("/api/events")).status_code == 401


async def test_an_account_has_so_many_streams(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "LISTENERS_MOST", 2)
    async with live.stream(), live.stream():  # of any kind
        answer = await live.client.get("/api/events", headers=live.api.token())
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        async with live.stream(user=live.api.stocked.bob):
            pass
    await live.nobody_listens()
    async with live.stream():
        pass


async def test_a_quiet_stream_shows_that_it_is_there(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUIET", 0.05)
    async with live.stream() as stream:
        for _ in range(3):
            frame = await stream.frame()
            assert (frame.comment, frame.id, frame.event) == (": still here", "", "")


async def test_it_ends_when_the_server_stops(live: Live) -> None:
    async with live.stream() as stream:
        live.api.context.stopping.set()
        (last,) = await stream.rest()
        assert last.comment == ": the server is stopping; connect again for the rest"


async def test_it_ends_when_the_key_does(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUIET", 0.05)
    monkeypatch.setattr(routes, "STILL_SIGNED_IN", 0.1)
    key = await live.api.api_key(scope="read")
    async with live.stream(headers=key) as stream:
        assert (await stream.frame()).comment
        listed = (await live.api.post("/api/user/apikey/list")).json()["apiKeys"]
        await live.api.post("/api/user/apikey/delete", {"apiKeyId": listed[0]["id"]})
        await stream.rest()


async def test_a_history_that_a_restore_undid_is_said(live: Live) -> None:
    await live.api.launch()
    async with live.stream(headers={"Last-Event-ID": "9000"}) as stream:
        opening = stream.seen[0]
        assert (opening.id, opening.event) == ("1", "reset")
        assert "List the instances again" in opening.data["message"]
        id = await live.api.launch()
        assert (await stream.next())["instanceId"] == id


async def test_many_that_listen_are_one_look(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty idle streams look at the database as often as one; an event costs a look for its user's."""
    monkeypatch.setattr(news, "BEAT", 0.2)
    monkeypatch.setattr(news, "LISTENERS_MOST", 100)
    api, looks = live.api, 0
    read = api.context.database.read

    async def counted(work: Any) -> Any:
        nonlocal looks
        looks += 1
        return await read(work)

    async def during(seconds: float) -> int:
        nonlocal looks
        looks = 0
        await asyncio.sleep(seconds)
        return looks

    monkeypatch.setattr(api.context.database, "read", counted)
    streams = [live.stream(user=api.stocked.bob) for _ in range(30)]
    for stream in streams:
        await stream.__aenter__()
    try:
        assert 1 <= await during(1.0) <= 8
        looks = 0
        await api.launch()  # alice's: nobody of theirs
        assert await during(0.5) <= 8
    finally:
        for stream in streams:
            await stream.__aexit__(None, None, None)
    await live.nobody_listens()
    assert await during(0.5) == 0


async def test_who_does_not_read_holds_nothing_and_little_is_kept_for_them(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, count, pages = live.api, 4000, 0
    id = await api.launch()

    await live.tell(id, [f"{number} " + "x" * 2000 for number in range(count)])
    read = events._read

    async def counted(*words: Any) -> Any:
        nonlocal pages
        pages += 1
        return await read(*words)

    monkeypatch.setattr(events, "_read", counted)
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, ("127.0.0.1", live.port))
        token = api.token()["Authorization"]
        await loop.sock_sendall(
            line, f"GET /api/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode()
        )
        before = -1
        while before != pages or not pages:
            before = pages
            await asyncio.sleep(0.3)
        assert pages < count / events.MOST / 2, "it reads on though nobody takes it"
        if not api.context.database.is_sqlite:
            open_ones = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
            assert await api.context.database.read(lambda c: c.execute(text(open_ones)).scalar()) == 0
    async with asyncio.timeout(SECONDS):
        while api.context.news._listeners:  # gone, and noticed
            await asyncio.sleep(0.05)


@pytest.fixture
def engine(live: Live) -> Iterator[Engine]:
    made = create_engine(live.api.context.database.url)
    yield made
    made.dispose()


def record(connection: Connection, live: Live, id: str, event: str) -> int:
    """An event of alice's, by a transaction that the server knows nothing of; its number."""
    made = insert(schema.events).values(
        instance_id=id,
        user_id=live.api.stocked.alice.id,
        at=live.api.clock.now(),
        event=event,
        from_state="Running",
        to_state="Running",
        start=1,
        reason="",
        message="",
    )
    return connection.execute(made.returning(schema.events.c.seq)).scalar_one()


only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@only_postgresql
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_number_that_is_seen_late_is_told_before_those_after_it(
    live: Live, engine: Engine, ends: str
) -> None:
    id = await live.api.launch()
    async with live.stream() as stream, live.stream("?after=0") as other:
        assert (await other.next())["event"] == "launch"
        with engine.connect() as early, engine.connect() as late, engine.connect() as third:
            first = record(early, live, id, "early")
            second = record(late, live, id, "late")
            assert first < second
            late.commit()
            live.api.context.news.ring()
            await asyncio.gather(stream.nothing(), other.nothing())
            record(third, live, id, "third")  # begun when the gap was seen, ends after it: keeps nobody
            getattr(early, ends)()
            expected = ["early", "late"] if ends == "commit" else ["late"]
            for each in (stream, other):
                assert [(await each.next())["event"] for _ in expected] == expected
            await asyncio.gather(stream.nothing(0.3), other.nothing(0.3))
            third.commit()
            for each in (stream, other):
                assert (await each.next())["event"] == "third"


@only_postgresql
async def test_a_stream_that_begins_beside_one_that_is_not_seen_yet_misses_nothing(
    live: Live, engine: Engine
) -> None:
    """It begins behind all that is on its way: what has a lower number is before it for everybody."""
    id = await live.api.launch()
    with engine.connect() as early:
        record(early, live, id, "early")
        with engine.connect() as late:
            record(late, live, id, "late")
            late.commit()

        async def begin() -> bool:
            async with live.stream("?after=1") as stream:
                return [(await stream.next())["event"] for _ in range(2)] == ["early", "late"]

        beginning = asyncio.create_task(begin())
        await asyncio.sleep(0.4)
        assert not beginning.done()
        early.commit()
    assert await beginning


@only_postgresql
async def test_reconnects_miss_and_double_nothing_while_many_write_at_once(
    live: Live, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight who commit late, early or not at all, and a reader who loses every connection after a moment."""
    monkeypatch.setattr(news, "BEAT", 0.05)
    id = await live.api.launch()
    committed: list[int] = []
    over = asyncio.Event()

    def write(number: int) -> list[int]:
        mine: list[int] = []
        with create_engine(engine.url).connect() as connection:
            for turn in range(60):
                seqs = [record(connection, live, id, "told") for _ in range(1 + turn % 3)]
                connection.execute(text(f"SELECT pg_sleep({(number * 7 + turn) % 5 / 500})"))
                if (turn + number) % 4:
                    connection.commit()
                    mine += seqs
                else:
                    connection.rollback()
        return mine

    async def read() -> list[int]:
        last, told = "1", list[int]()
        while True:
            done = over.is_set()
            async with live.stream(headers={"Last-Event-ID": last}) as stream:
                try:
                    async with asyncio.timeout(0.15):
                        while True:
                            told.append((await stream.next())["seq"])
                except TimeoutError:
                    pass
            if done and stream.last == last:
                return told
            last = stream.last

    reading = [asyncio.create_task(read()) for _ in range(3)]
    for mine in await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(8))):
        committed += mine
    over.set()
    for told in await asyncio.gather(*reading):
        assert told == sorted(committed)


async def test_a_write_that_records_nothing_rings_nobody(live: Live) -> None:
    rung = 0

    def ring() -> None:
        nonlocal rung
        rung += 1

    database = live.api.context.database
    database.when_recorded(ring)
    await database.write(lambda connection: connection.info.get(RECORDED))
    assert rung == 0
    with pytest.raises(ZeroDivisionError):
        await database.write(lambda connection: (connection.info.update({RECORDED: True}), 1 / 0))
    assert rung == 0
    await database.write(lambda connection: None)
    assert rung == 0
    id = await live.api.launch()
    assert rung == 1
    await live.api.post(f"/api/instance/{Event.TERMINATE.value}", {"instanceId": id})
    assert rung == 2
