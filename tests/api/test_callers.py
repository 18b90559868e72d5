"""Who is calling: three ways, one refusal, and no other site on a user's behalf."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.api.served import LAUNCH, URL, Served, served
from tests.stock import HandClock, Stocked

from tidemill.model.errors import Misconfigured

NOT_LOGGED_IN = b'{"code": -1, "message": "Not logged in or login expired, please log in again"}'
STOP = "/api/instance/stop"
GONE = {"instanceId": "notebook-0"}


async def test_three_ways(api: Served) -> None:
    for headers in (api.token(), api.cookie(), await api.api_key()):
        me = await api.get("/api/user/me", headers)
        assert me.json()["userId"] == api.stocked.alice.id
        assert (await api.post("/api/instance/create", LAUNCH, headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YWxpY2U6eA=="},
        {"Cookie": "AccessToken=x"},
        {"Cookie": "AccessToken="},
        {"Cookie": "other=1"},
        {"X-API-Key": ""},
        {"X-API-Key": "tm_x"},
        {"X-API-Key": "tm_" + "x" * 300},
    ],
)
@pytest.mark.parametrize("path", ["/api/instance/create", "/api/instance/list", "/api/user/logout"])
async def test_nobody(api: Served, path: str, headers: dict[str, str]) -> None:
    answer = await api.post(path, {}, headers)
    assert (answer.status_code, answer.content) == (401, NOT_LOGGED_IN)
    assert answer.headers["content-type"] == "application/json"


async def test_a_token_ends_after_a_day(api: Served) -> None:
    token = api.token()
    api.clock.pass_by(86399)
    assert (await api.get("/api/user/me", token)).status_code == 200
    api.clock.pass_by(1)
    assert (await api.get("/api/user/me", token)).content == NOT_LOGGED_IN


async def test_a_bad_api_key_is_not_saved_by_a_good_cookie(api: Served) -> None:
    assert (await api.get("/api/user/me", api.cookie() | {"X-API-Key": "tm_x"})).status_code == 401


async def test_with_other_authorization_the_cookie_counts(api: Served) -> None:
    basic = {"Authorization": "Basic YWxpY2U6eA=="}
    assert (await api.get("/api/user/me", api.cookie() | basic)).status_code == 200


FORGED = [
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://gpu.example.org"},
    {"Origin": "http://gpu.example.org:8420.evil.example"},
    {"Origin": "http://gpu.example.org:84200"},
    {"Origin": "http://[", "Host": "["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": URL, "Sec-Fetch-Site": "Cross-Site"},
]


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize(
    "path",
    ["/api/instance/create", STOP, "/api/user/logout", "/api/user/sshkey/create", "/api/user/password"],
)
async def test_another_site_cannot_change_anything_by_the_cookie(
    api: Served, path: str, forged: dict[str, str]
) -> None:
    answer = await api.post(path, LAUNCH, api.cookie() | forged)
    assert answer.status_code == 403
    assert answer.json()["error"] in {"crossSite", "contentTypeRequired"}
    assert (await api.get("/api/user/me", api.token())).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Origin": URL},
        {"Origin": URL.upper().replace("HTTP", "http")},
        {"Origin": URL, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_our_own_pages_and_curl_can(api: Served, sent: dict[str, str]) -> None:
    assert (await api.post("/api/instance/create", LAUNCH, api.cookie() | sent)).status_code == 200


@pytest.mark.parametrize("sent", [*FORGED, {"Content-Type": "application/x-www-form-urlencoded"}])
async def test_a_header_cannot_be_forged(api: Served, sent: dict[str, str]) -> None:
    for way in (api.token(), await api.api_key()):
        assert (await api.post("/api/instance/create", LAUNCH, way | sent)).status_code == 200


async def test_another_site_cannot_log_a_browser_in(api: Served) -> None:
    body = {"username": "alice", "password": "x"}
    answer = await api.post("/api/user/login", body, {"Origin": "https://evil.example"})
    assert answer.status_code == 403


async def test_the_public_url_says_which_site_is_ours(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    async with served(stocked, clock, keys, public_url="https://cloud.example/") as api:
        for origin, status in (
            ("https://cloud.example", 404),
            ("https://cloud.example:443", 404),
            (URL, 403),
        ):
            answer = await api.post(STOP, GONE, api.cookie() | {"Origin": origin})
            assert answer.status_code == status


async def test_bad_settings_are_named(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    for settings, name in (
        ({"public_url": "gpu.example"}, "public_url"),
        ({"trusted_proxies": "x"}, "trusted"),
    ):
        with pytest.raises(Misconfigured, match=name):
            async with served(stocked, clock, keys, **settings):
                pass


async def test_a_read_key_reads(api: Served) -> None:
    instance = await api.launch()
    key = await api.api_key(scope="read")
    for answer in (
        await api.get("/api/user/me", key),
        await api.get(f"/api/instance/{instance}", key),
        await api.get(f"/api/instance/{instance}/events", key),
        await api.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 1}}, key),
        await api.post("/api/resource/user/instance/list", {}, key),
        await api.post("/api/user/sshkey/list", {}, key),
    ):
        assert answer.status_code == 200
    for verb in ("create", "start", "stop", "restart", "terminate"):
        answer = await api.post(f"/api/instance/{verb}", LAUNCH | {"instanceId": instance}, key)
        assert (answer.status_code, answer.json()["error"]) == (403, "readOnlyKey")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("apikey/create", {"name": "more"}),
        ("apikey/list", {}),
        ("apikey/delete", {"apiKeyId": "x"}),
        ("sshkey/create", {"publicKey": "x"}),
        ("sshkey/delete", {"sshKeyId": "x"}),
        ("password", {"oldPassword": "correct horse", "newPassword": "battery staple"}),
        ("logout", {}),
    ],
)
async def test_a_full_key_manages_no_keys_and_no_password(api: Served, path: str, body: object) -> None:
    answer = await api.post(f"/api/user/{path}", body, await api.api_key())
    assert (answer.status_code, answer.json()["error"]) == (403, "loginRequired")


async def test_an_expired_key_is_nobody(api: Served) -> None:
    key = await api.api_key(expiresAt="2026-03-01T13:00:00Z")
    assert (await api.get("/api/user/me", key)).status_code == 200
    api.clock.pass_by(3600)
    assert (await api.get("/api/user/me", key)).content == NOT_LOGGED_IN
