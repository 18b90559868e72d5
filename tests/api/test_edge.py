"""What holds for every request: bounds, headers, errors nobody expected, nothing secret in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest
import structlog
from fastapi import Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from starlette.types import Message
from tests.api.served import LAUNCH, PASSWORD, Served, served
from tests.stock import HandClock, Stocked

from tidemill.api.app import STATUS, status_of
from tidemill.model import errors
from tidemill.model.errors import Unavailable
from tidemill.store.database import Database

LIMIT = 1048576
TOO_LARGE = {"message": f"The request body is larger than {LIMIT} bytes", "error": "bodyTooLarge"}


async def pieces(size: int) -> AsyncIterator[bytes]:
    yield b'{"name": "'
    for _ in range(size // 65536):
        yield b"x" * 65536


async def test_a_large_body_is_refused_by_its_header(api: Served) -> None:
    for headers in (api.token(), {}):
        answer = await api.client.post("/api/instance/create", content=b"x" * (LIMIT + 1), headers=headers)
        assert (answer.status_code, answer.json()) == (413, TOO_LARGE)
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_large_body_is_refused_without_a_header(api: Served) -> None:
    answer = await api.client.post("/api/instance/create", content=pieces(LIMIT), headers=api.token())
    assert (answer.status_code, answer.json()) == (413, TOO_LARGE)


async def test_a_body_of_just_the_limit_is_read(api: Served) -> None:
    body = json.dumps(LAUNCH).encode()
    padded = body + b" " * (LIMIT - len(body))
    answer = await api.client.post("/api/instance/create", content=padded, headers=api.token())
    assert answer.status_code == 200


@pytest.mark.parametrize("length", ["", "-1", "1e9", "²", "9" * 30])
async def test_odd_lengths(api: Served, length: str) -> None:
    headers = api.token() | {"Content-Length": length.encode("latin-1")}
    answer = await api.client.post("/api/user/me", content=b"", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code in {405, 413}


@pytest.mark.parametrize("path", ["/api/user/me", "/api/nothing", "/api/instance/create"])
async def test_headers(api: Served, path: str) -> None:
    answer = await api.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_other_methods(api: Served, method: str) -> None:
    answer = await api.client.request(method, "/api/instance/create", headers=api.token())
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert answer.json()["error"] == "methodNotAllowed"


@pytest.mark.parametrize("path", ["/api/instance/create/", "//api/instance/create", "/API/instance/create"])
async def test_paths_are_exact(api: Served, path: str) -> None:
    answer = await api.client.post(f"http://gpu.example.org:8420{path}", headers=api.token())
    assert (answer.status_code, answer.json()["error"]) == (404, "pathNotFound")


def test_every_error_has_a_status() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TidemillError):
            made = kind("x", retry_after=1) if kind is errors.TooManyAttempts else kind("x")
            expected = kind not in {errors.TidemillError, errors.Misconfigured}
            assert (status_of(made) is not None) is expected
    assert status_of(errors.OutOfStock("x")) == STATUS[errors.Conflict] == 409


async def test_what_nobody_expected_is_a_500_that_gives_nothing_away(api: Served) -> None:
    async def broken(request: Request) -> None:
        try:
            raise KeyError("a secret key")
        except KeyError as error:
            raise RuntimeError(f"a secret: {await request.body()!r}") from error

    api.app.add_api_route("/api/broken", broken, methods=["POST"])
    with structlog.testing.capture_logs() as logged:
        answer = await api.post("/api/broken", {"password": "a secret word"})
    assert answer.status_code == 500
    assert answer.json()["error"] == "internal"
    assert "secret" not in answer.text
    (entry,) = logged
    assert entry["request"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] in answer.json()["message"]
    assert entry["path"] == "/api/broken"
    assert "RuntimeError" in entry["errors"][0]
    assert "test_edge.py" in entry["errors"][0]
    assert "KeyError" in entry["errors"][1]
    assert "secret" not in str(logged)


async def test_a_misconfigured_server_is_a_500_too(api: Served) -> None:
    async def broken(request: Request) -> None:
        raise errors.Misconfigured("for the operator's eyes")

    api.app.add_api_route("/api/broken", broken, methods=["POST"])
    answer = await api.post("/api/broken", {})
    assert answer.status_code == 500
    assert "operator" not in answer.text


async def test_a_database_that_is_gone_is_a_503(api: Served, tmp_path: Path) -> None:
    gone = Database(f"sqlite:///{tmp_path / 'no' / 'folder'}")
    object.__setattr__(api.context, "database", gone)
    try:
        for answer in (
            await api.get("/api/user/me"),
            await api.get("/readyz", {}),
            await api.post("/api/instance/create", LAUNCH),
        ):
            assert answer.status_code == 503
            assert set(answer.json()) >= {"message", "error"}
            assert "sqlite" not in answer.text
        assert (await api.get("/healthz", {})).json() == {"status": "ok"}
    finally:
        gone.close()


async def test_health(api: Served) -> None:
    assert (await api.get("/healthz", {})).json() == {"status": "ok"}
    assert (await api.get("/readyz", {})).json() == {"status": "ok"}
    api.driver.dials.unreachable = "the engine is away"
    answer = await api.get("/readyz", {})
    assert answer.status_code == 503
    assert answer.json()["error"] == "notReady"
    assert list(answer.json()["problems"].values()) == ["the engine is away"]


async def test_nothing_secret_is_logged(
    stocked: Stocked,
    clock: HandClock,
    keys: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    script, value = "echo secret-of-the-script", "secret-of-the-environment"
    with structlog.testing.capture_logs() as logged:
        async with served(stocked, clock, keys) as api:
            login = await api.post("/api/user/login", {"username": "alice", "password": PASSWORD}, {})
            await api.post("/api/user/login", {"username": "alice", "password": "secret-wrong"}, {})
            token = login.json()["accessToken"]
            key = (await api.api_key())["X-API-Key"]
            body = LAUNCH | {"env": {"A": value}}
            body["instanceConfiguration"] = LAUNCH["instanceConfiguration"] | {"initScript": script}
            assert (await api.post("/api/instance/create", body, {"X-API-Key": key})).status_code == 200
            await api.post("/api/instance/create", body | {"nodePorts": "x"})
            await api.post("/api/instance/create", body | {"env": {"A": value, "1": value}})
            await api.get("/api/user/me", {"Authorization": f"Bearer {token}"})
            api.driver.dials.unreachable = "away"
            await api.get(f"/api/instance/{await api.launch()}/logs")
    said = "\n".join([caplog.text, str(logged), *capfd.readouterr()])
    for secret in (PASSWORD, "secret-", token, token.split(".")[2], key):
        assert secret not in said


async def test_an_answer_that_breaks_in_the_middle_is_not_ended_as_if_whole(api: Served) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("a secret")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    api.app.add_api_route("/api/broken", lambda: StreamingResponse(chunks()), methods=["GET"])
    scope = {"type": "http", "method": "GET", "path": "/api/broken", "headers": [], "query_string": b""}
    with structlog.testing.capture_logs() as logged:
        await api.app(scope, receive, send)
    assert [message.get("body") for message in sent] == [None, b"first"]
    assert sent[-1]["more_body"] is True
    assert len(logged) == 1
    assert "a secret" not in str(logged)


async def test_the_document_is_served(api: Served) -> None:
    document = (await api.get("/api/openapi.json", {})).json()
    operations = [
        (path, operation) for path, methods in document["paths"].items() for operation in methods.values()
    ]
    assert len(operations) == 45
    for path, operation in operations:
        statuses = set(operation["responses"])
        assert {"200", "500", "503"} <= statuses, path
        assert "422" not in statuses, path
        # Who may log in or read the metrics is not told by how a user says who they are.
        own_way = path in {"/api/user/login", "/metrics"}
        assert ("401" in statuses) is bool(operation["security"]) or own_way
        if "requestBody" in operation:
            assert {"400", "413"} <= statuses, path
    assert set(document["components"]["securitySchemes"]) == {"cookie", "token", "apiKey"}
    launch = document["components"]["schemas"]["LaunchRequest"]
    assert launch["required"] == [
        *("name", "imageId", "instanceTypeId", "region", "billing"),
        *("remoteStorages", "instanceConfiguration", "nodePorts"),
    ]


async def test_a_client_may_ask_over_any_host(api: Served) -> None:
    transport = httpx.ASGITransport(api.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/api/user/me", headers=api.token())).status_code == 200


async def test_not_ready_while_nothing_can_be_written(api: Served) -> None:
    def full(connection: Connection) -> None:
        if connection.dialect.name == "sqlite":
            raise sqlite3.OperationalError("database or disk is full")
        raise OperationalError(
            "", None, psycopg.errors.DiskFull("could not extend file: No space left on device")
        )

    with pytest.raises(Unavailable):
        await api.stocked.database.write(full)
    await api.stocked.database.write(lambda _: None, durable=False)  # a sign of life may still fit
    answer = await api.get("/readyz", {})
    assert answer.status_code == 503
    assert "It can be read and not written: its disk is full." in answer.json()["message"]
    await api.stocked.database.write(lambda _: None)
    assert (await api.get("/readyz", {})).status_code == 200


async def test_not_ready_on_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A real one: SQLite is told that the file may not grow."""
    database = Database(f"sqlite:///{tmp_path / 'small.db'}")
    try:
        await database.write(lambda c: c.execute(text("CREATE TABLE t (x)")))
        await database.write(lambda c: c.execute(text("PRAGMA max_page_count = 2")))
        with pytest.raises(Unavailable):
            await database.write(lambda c: c.execute(text("INSERT INTO t VALUES (zeroblob(1000000))")))
        assert database.cannot_write == "its disk is full"
    finally:
        database.close()
