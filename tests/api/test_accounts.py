"""Login, logout, passwords, API keys and ssh keys as a client meets them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, update
from tests.api.served import HASH, LAUNCH, PASSWORD, Served, served
from tests.cheap_passwords import cost
from tests.stock import HandClock, Stocked

from tidemill.actions import passwords
from tidemill.store.schema import api_keys, instances, users

LOGIN = "/api/user/login"
NO_TIME = 'field "expiresAt" must be an RFC 3339 time such as 2030-01-31T12:00:00Z'
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"


async def login(api: Served, username: str = "alice", password: str = PASSWORD, **headers: str) -> Any:
    return await api.post(LOGIN, {"username": username, "password": password}, headers)


async def test_login(api: Served) -> None:
    answer = await login(api)
    assert answer.status_code == 200
    token = answer.json()["accessToken"]
    assert answer.json() == {"accessToken": token, "accessExpire": 86400}
    assert answer.headers["set-cookie"] == (
        f"AccessToken={token}; HttpOnly; Max-Age=86400; Path=/; SameSite=lax"
    )
    assert answer.headers["cache-control"] == "no-store"
    keys = jwt.PyJWKSet.from_dict((await api.get("/api/.well-known/jwks.json", {})).json())
    options = {"verify_exp": False, "verify_iat": False}
    said = jwt.decode(token, keys.keys[0].key, algorithms=["RS256"], audience="tidemill", options=options)
    assert (said["sub"], said["group"]) == (api.stocked.alice.id, ["user"])
    me = await api.get("/api/user/me", {"Authorization": f"Bearer {token}"})
    assert me.json() == {
        "userId": api.stocked.alice.id,
        "username": "alice",
        "group": ["user"],
        "createdAt": "2026-03-01T12:00:00Z",
        "scope": "full",
        "instanceId": None,
        "apiKeyId": None,
        "expiresAt": "2026-03-02T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("settings", "secure"),
    [
        ({"public_url": "https://gpu.example.org"}, True),
        ({"public_url": "http://gpu.example.org"}, False),
        ({"secure_cookie": "true"}, True),
        ({"public_url": "https://gpu.example.org", "secure_cookie": "false"}, False),
    ],
)
async def test_the_cookie_behind_tls(
    stocked: Stocked, clock: HandClock, keys: Path, settings: dict[str, str], secure: bool
) -> None:
    async with served(stocked, clock, keys, **settings) as api:
        answer = await login(api)
        assert ("Secure" in answer.headers["set-cookie"]) is secure
        assert ("strict-transport-security" in answer.headers) is settings.get("public_url", "").startswith(
            "https"
        )


async def test_a_wrong_password_and_an_unknown_user_are_the_same(api: Served) -> None:
    answers = [await login(api, *pair) for pair in (("alice", "wrong"), ("nobody", PASSWORD), ("", ""))]
    assert {answer.content for answer in answers} == {
        b'{"code": -1, "message": "Wrong user name or password", "error": "wrongPassword"}'
    }
    assert {answer.status_code for answer in answers} == {401}
    assert all("set-cookie" not in answer.headers for answer in answers)


async def test_they_take_the_same_time(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    """With passwords as dear as they really are, by the processor's time: others may want the machine."""
    plenty = {"login_attempts": 1000, "login_attempts_address": 1000}
    with cost(PasswordHasher()):
        async with served(stocked, clock, keys, **plenty) as api:
            dear = update(users).values(password_hash=passwords.hash_password(PASSWORD))
            stocked.database.run(lambda connection: connection.execute(dear))

            async def seconds(name: str) -> float:
                started = time.process_time()
                await login(api, name, "wrong")
                return time.process_time() - started

            taken = [(await seconds("alice"), await seconds("nobody")) for _ in range(5)]
            wrong, unknown = (min(times) for times in zip(*taken, strict=True))
            assert 0.5 < wrong / unknown < 2
            assert unknown > 0.01


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'field "username" is not set'),
        ({"username": "alice"}, 'field "password" is not set'),
        ({"username": 1, "password": "x"}, 'type mismatch for field "username"'),
        ({"username": "x" * 256, "password": "x"}, 'field "username" must have 0 to 255 characters'),
        ({"username": "x", "password": "x" * 1025}, 'field "password" must have 0 to 1024 characters'),
    ],
)
async def test_login_requests(api: Served, body: object, message: str) -> None:
    answer = await api.post(LOGIN, body, {})
    assert (answer.status_code, answer.json()["message"]) == (400, message)


FEW = {"login_free_attempts": 1, "login_attempts": 3}


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_guessing_is_refused_also_for_nobody(
    stocked: Stocked, clock: HandClock, keys: Path, name: str
) -> None:
    async with served(stocked, clock, keys, **FEW) as api:
        for _ in range(3):
            assert (await login(api, name, "wrong")).status_code == 401
        answer = await login(api, name)
        assert (answer.status_code, answer.json()["error"]) == (429, "tooManyAttempts")
        assert answer.headers["retry-after"] == "300"
        assert answer.json()["message"] == "Too many failed logins; please wait before trying again"
        clock.pass_by(300)
        assert (await login(api, name)).status_code == (200 if name == "alice" else 401)


async def test_many_guesses_at_once(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    async with served(stocked, clock, keys, **FEW) as api:
        answers = await asyncio.gather(*(login(api, "alice", f"wrong {n}") for n in range(40)))
        assert sorted(answer.status_code for answer in answers) == [401] * 3 + [429] * 37


@pytest.mark.parametrize(
    ("trusted", "refused"), [("", True), ("198.51.100.7", False), ("198.51.100.0/24 10.0.0.0/8", False)]
)
async def test_the_address_behind_a_proxy(
    stocked: Stocked, clock: HandClock, keys: Path, trusted: str, refused: bool
) -> None:
    limit = {"login_attempts_address": 3, "trusted_proxies": trusted}
    async with served(stocked, clock, keys, **limit) as api:
        for number in range(4):
            headers = {"X-Forwarded-For": f"203.0.113.66, 203.0.113.{number}, 10.0.0.1"}
            if trusted == "198.51.100.7":
                headers = {"X-Forwarded-For": f"203.0.113.66, 203.0.113.{number}"}
            answer = await login(api, f"user {number}", "wrong", **headers)
        assert answer.status_code == (429 if refused else 401)


async def test_a_client_cannot_choose_its_address(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    limit = {"login_attempts_address": 3, "trusted_proxies": "198.51.100.7"}
    async with served(stocked, clock, keys, **limit) as api:
        for number in range(4):
            headers = {"X-Forwarded-For": f"203.0.113.{number}, 192.0.2.1"}
            answer = await login(api, f"user {number}", "wrong", **headers)
        assert answer.status_code == 429


async def test_logout_ends_every_token(api: Served) -> None:
    other = {"Authorization": f"Bearer {(await login(api)).json()['accessToken']}"}
    bob = api.token(api.stocked.bob)
    key = await api.api_key()
    answer = await api.post("/api/user/logout", None, api.cookie())
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["set-cookie"].startswith('AccessToken=""; ')
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (await api.get("/api/user/me", other)).status_code == 401
    assert (await api.get("/api/user/me", bob)).status_code == 200
    assert (await api.get("/api/user/me", key)).status_code == 200
    assert (await login(api)).status_code == 200


async def test_a_new_login_ends_nothing(api: Served) -> None:
    first, second = [
        {"Authorization": f"Bearer {(await login(api)).json()['accessToken']}"} for _ in range(2)
    ]
    assert first != second
    for token in (first, second):
        assert (await api.get("/api/user/me", token)).status_code == 200


async def test_a_new_password(api: Served) -> None:
    before = api.token()
    body = {"oldPassword": PASSWORD, "newPassword": "battery staple"}
    answer = await api.post("/api/user/password", body, before)
    assert answer.status_code == 200
    after = {"Authorization": f"Bearer {answer.json()['accessToken']}"}
    assert (await api.get("/api/user/me", before)).status_code == 401
    assert (await api.get("/api/user/me", after)).status_code == 200
    assert (await login(api)).status_code == 401
    assert (await login(api, password="battery staple")).status_code == 200


async def test_the_old_password_cannot_be_guessed_with_a_token(
    stocked: Stocked, clock: HandClock, keys: Path
) -> None:
    body = {"oldPassword": "wrong", "newPassword": "battery staple"}
    async with served(stocked, clock, keys, **FEW) as api:
        for _ in range(3):
            answer = await api.post("/api/user/password", body)
            assert (answer.status_code, answer.json()["error"]) == (403, "wrongPassword")
        assert (await api.post("/api/user/password", body | {"oldPassword": PASSWORD})).status_code == 429


async def test_a_new_password_is_not_too_short(api: Served) -> None:
    answer = await api.post("/api/user/password", {"oldPassword": PASSWORD, "newPassword": "short"})
    assert answer.json()["message"] == 'field "newPassword" must have 8 to 1024 characters'


async def test_a_hash_of_old_costs_is_made_anew(api: Served) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    database = api.stocked.database
    database.run(lambda connection: connection.execute(update(users).values(password_hash=weak)))
    assert (await login(api)).status_code == 200
    stored = database.run(
        lambda connection: connection.execute(
            select(users.c.password_hash).where(users.c.username == "alice")
        ).scalar_one()
    )
    assert stored.split("$")[:4] == HASH.split("$")[:4]
    assert (await login(api)).status_code == 200


async def test_api_keys(api: Served) -> None:
    answer = await api.post(
        "/api/user/apikey/create", {"name": "ci", "scope": "read", "expiresAt": "2026-03-02T01:00:00+01:00"}
    )
    made = answer.json()
    secret = made["key"]
    assert secret.startswith("tm_")
    assert len(secret) == 46
    row = {
        "id": made["apiKey"]["id"],
        "name": "ci",
        "hint": secret[:7] + "...",
        "scope": "read",
        "createdAt": "2026-03-01T12:00:00Z",
        "expiresAt": "2026-03-02T00:00:00Z",
    }
    assert made == {"apiKey": row, "key": secret}
    listed = await api.post("/api/user/apikey/list")
    assert listed.json() == {"apiKeys": [row]}
    assert secret[8:] not in listed.text
    stored = api.stocked.database.run(lambda connection: str(connection.execute(select(api_keys)).all()))
    assert secret[8:] not in stored
    bob = api.token(api.stocked.bob)
    assert (await api.post("/api/user/apikey/list", {}, bob)).json() == {"apiKeys": []}
    for headers, status in ((bob, 404), (api.token(), 200), (api.token(), 404)):
        answer = await api.post("/api/user/apikey/delete", {"apiKeyId": row["id"]}, headers)
        assert answer.status_code == status
    assert answer.json() == {"message": "api key not found", "error": "apiKeyNotFound"}
    assert (await api.get("/api/user/me", {"X-API-Key": secret})).status_code == 401


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": None}, 'field "name" is not set'),
        ({"name": ""}, 'field "name" must have 1 to 255 characters'),
        ({"name": "a\tb"}, 'field "name" contains a control character'),
        ({"scope": "admin"}, 'value "admin" for field "scope" is not defined in options "[full read]"'),
        ({"expiresAt": "2026-03-01T12:00:00Z"}, 'field "expiresAt" must be in the future'),
        (
            {"expiresAt": "tomorrow"},
            'field "expiresAt" must be an RFC 3339 time such as 2030-01-31T12:00:00Z',
        ),
        (
            {"expiresAt": "2030-01-01"},
            'field "expiresAt" must be an RFC 3339 time such as 2030-01-31T12:00:00Z',
        ),
        (
            {"expiresAt": "0001-01-01T00:00:00+09:00"},
            'field "expiresAt" must be an RFC 3339 time such as 2030-01-31T12:00:00Z',
        ),
        ({"expiresAt": 1}, 'type mismatch for field "expiresAt"'),
    ],
)
async def test_api_key_requests(api: Served, fields: dict[str, Any], message: str) -> None:
    answer = await api.post("/api/user/apikey/create", {"name": "x"} | fields)
    assert (answer.status_code, answer.json()["message"]) == (400, message)


async def test_there_are_at_most_a_hundred_api_keys(api: Served) -> None:
    for _ in range(100):
        await api.api_key()
    answer = await api.post("/api/user/apikey/create", {"name": "one more"})
    assert (answer.status_code, answer.json()["error"]) == (403, "quotaExceeded")


async def test_ssh_keys(api: Served) -> None:
    instance = await api.launch()
    answer = await api.post("/api/user/sshkey/create", {"publicKey": f"{KEY}  laptop \n"})
    row = answer.json()["sshKey"]
    assert row == {
        "id": row["id"],
        "name": "laptop",
        "publicKey": f"{KEY} laptop",
        "fingerprint": row["fingerprint"],
        "createdAt": "2026-03-01T12:00:00Z",
    }
    again = await api.post("/api/user/sshkey/create", {"name": "again", "publicKey": KEY})
    assert (again.status_code, again.json()["error"]) == (409, "sshKeyExists")
    bob = api.token(api.stocked.bob)
    assert (await api.post("/api/user/sshkey/create", {"publicKey": KEY}, bob)).status_code == 200
    assert (await api.post("/api/user/sshkey/list")).json() == {"sshKeys": [row]}

    def revision() -> int:
        return api.stocked.database.run(
            lambda connection: connection.execute(
                select(instances.c.revision).where(instances.c.id == instance)
            ).scalar_one()
        )

    assert revision() == 1
    assert await api.context.wake.wait(0.01)
    for headers, status in ((bob, 404), (api.token(), 200), (api.token(), 404)):
        answer = await api.post("/api/user/sshkey/delete", {"sshKeyId": row["id"]}, headers)
        assert answer.status_code == status
    assert answer.json() == {"message": "ssh key not found", "error": "sshKeyNotFound"}
    assert revision() == 2
    assert await api.context.wake.wait(0.01)
    assert (await api.post("/api/user/sshkey/list")).json() == {"sshKeys": []}


async def test_an_instance_for_some_keys(api: Served) -> None:
    made = (await api.post("/api/user/sshkey/create", {"publicKey": KEY})).json()["sshKey"]
    assert made["name"] == made["fingerprint"]
    ids = {"sshKeyIds": [made["id"]]}
    assert (await api.post("/api/instance/create", LAUNCH | ids)).status_code == 200
    answer = await api.post("/api/instance/create", LAUNCH | ids, api.token(api.stocked.bob))
    assert (answer.status_code, answer.json()["message"]) == (404, "ssh key not found")


async def test_a_bad_ssh_key_is_refused_with_the_reason(api: Served) -> None:
    answer = await api.post("/api/user/sshkey/create", {"publicKey": "ssh-ed25519 AAAA"})
    assert (answer.status_code, answer.json()["error"]) == (400, "badSshKey")
    assert "cut off" in answer.json()["message"]
