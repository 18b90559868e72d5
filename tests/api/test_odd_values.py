"""Values that one database takes and another refuses: the answers are the same, and never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.api.served import LAUNCH, PASSWORD, Served

ODD = ["a\0b", "\0", "\ud800", "a\ud83dx", "\ufffe", "x" * 5000, "\u202e", "🙂" * 60, "\\u0000", "%", "\\"]


def sent(body: Any) -> bytes:
    return json.dumps(body).encode()  # escapes what no UTF-8 can hold


async def ask(api: Served, path: str, body: Any, headers: dict[str, str] | None = None) -> int:
    answer = await api.client.post(
        path,
        content=sent(body),
        headers={"Content-Type": "application/json"} | (api.token() if headers is None else headers),
    )
    assert answer.status_code < 500, (path, body, answer.text)
    return answer.status_code


@pytest.mark.parametrize("odd", ODD)
async def test_odd_words_everywhere(api: Served, odd: str) -> None:
    page = {"currentPage": 1, "pageSize": 10}
    for change in (
        {"name": odd},
        {"imageId": odd},
        {"instanceTypeId": odd},
        {"region": odd},
        {"env": {odd: "x"}},
        {"env": {"X": odd}},
        {"sshKeyIds": [odd]},
        {"instanceConfiguration": LAUNCH["instanceConfiguration"] | {"initScript": odd}},
    ):
        await ask(api, "/api/instance/create", LAUNCH | change)
    await ask(api, "/api/instance/list", {"pager": page, "filter": {"name": odd}})
    await ask(api, "/api/instance/list", {"pager": page, "filter": {"region": odd, "status": odd}})
    await ask(api, "/api/instance/stop", {"instanceId": odd})
    await ask(api, "/api/user/login", {"username": odd, "password": PASSWORD}, {})
    await ask(api, "/api/user/login", {"username": "alice", "password": odd}, {})
    await ask(api, "/api/user/password", {"oldPassword": odd, "newPassword": odd})
    await ask(api, "/api/user/apikey/create", {"name": odd})
    await ask(api, "/api/user/apikey/delete", {"apiKeyId": odd})
    await ask(api, "/api/user/sshkey/create", {"name": odd, "publicKey": odd})
    await ask(api, "/api/user/sshkey/delete", {"sshKeyId": odd})


@pytest.mark.parametrize("number", [2**31 - 1, 2**31, 2**53, 2**63, 10**30, -1, 0.5, 1e300])
async def test_odd_numbers_everywhere(api: Served, number: float) -> None:
    configuration = LAUNCH["instanceConfiguration"]
    for change in (
        {"billing": {"chargeMode": "perDay", "duration": number}},
        {"nodePorts": [number]},
        {"instanceConfiguration": configuration | {"extraDataDiskSizeDB": number}},
        {"instanceConfiguration": configuration | {"dockerStorageSize": number}},
    ):
        await ask(api, "/api/instance/create", LAUNCH | change)
    await ask(api, "/api/instance/list", {"pager": {"currentPage": number, "pageSize": 200}})
    instance_id = await api.launch()
    for query in ("after", "limit"):
        answer = await api.get(f"/api/instance/{instance_id}/events?{query}={number}")
        assert answer.status_code < 500


async def test_odd_ids_in_the_path(api: Served) -> None:
    for odd in ("%00", "a%00b", "%ed%a0%80", "%ff", "x" * 3000):
        for path in ("", "/events", "/logs"):
            assert (await api.get(f"/api/instance/{odd}{path}")).status_code == 404
