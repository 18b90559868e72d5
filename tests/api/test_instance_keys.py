"""The key of an instance: what it opens, what it does not, and that it is kept nowhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.api.served import LAUNCH, Served, served
from tests.stock import HandClock, Stocked

from tidemill.actions.instance_keys import SECRET, access_of, url_for_instances
from tidemill.model.instance import Instance
from tidemill.model.lifecycle import Event
from tidemill.settings import Settings
from tidemill.store import instances

URL = "http://10.0.0.5:8420"


@pytest.fixture
async def api(stocked: Stocked, clock: HandClock, keys: Path, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(stocked, clock, keys, data_dir=tmp_path / "data", instance_url=URL + "/") as made:
        yield made


async def launch(api: Served, **fields: Any) -> str:
    answer = await api.post("/api/instance/create", LAUNCH | {"instanceKey": True} | fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["instanceId"])


async def row(api: Served, id: str) -> Instance:
    found = await api.context.database.read(lambda connection: instances.get(connection, id))
    assert found is not None
    return found


async def key_of(api: Served, id: str) -> dict[str, str]:
    access = access_of(api.context.settings, await row(api, id))
    assert (access["TIDEMILL_URL"], access["TIDEMILL_INSTANCE"]) == (URL, id)
    return {"X-API-Key": access["TIDEMILL_API_KEY"]}


async def test_it_reaches_its_own_instance(api: Served) -> None:
    id = await launch(api)
    key = await key_of(api, id)
    shown = (await api.get(f"/api/instance/{id}", key)).json()
    assert shown["instanceSpecInfo"]["instanceKey"] is True
    for part in ("events", "usage"):
        assert (await api.get(f"/api/instance/{id}/{part}", key)).status_code == 200
    assert (await api.get(f"/api/instance/{id}/logs", key)).status_code == 200
    events = await api.get("/api/events?after=0&follow=false", key)
    assert id in events.text
    me = (await api.get("/api/user/me", key)).json()
    assert (me["scope"], me["instanceId"], me["group"]) == ("instance", id, [])
    assert me["userId"] == api.stocked.alice.id
    for verb in ("stop", "terminate"):
        assert (await api.post(f"/api/instance/{verb}", {"instanceId": id}, key)).status_code == 200


async def test_it_reaches_nothing_else(api: Served) -> None:
    id, other = await launch(api), await launch(api, instanceKey=False)
    key = await key_of(api, id)
    for part in ("", "/events", "/logs", "/usage"):
        answer = await api.get(f"/api/instance/{other}{part}", key)
        assert (answer.status_code, answer.json()["error"]) == (404, "instanceNotFound"), part
    for verb in ("stop", "restart", "terminate"):
        answer = await api.post(f"/api/instance/{verb}", {"instanceId": other}, key)
        assert (answer.status_code, answer.json()["error"]) == (404, "instanceNotFound"), verb
    assert (await api.get(f"/api/events?instanceId={other}", key)).status_code == 404
    told = await api.get("/api/events?after=0&follow=false", key)
    assert other not in told.text


async def test_every_other_call_is_refused(api: Served) -> None:
    """Of all that the document has: whatever is added is refused until somebody says otherwise."""
    id = await launch(api)
    key = await key_of(api, id)
    document = (await api.get("/api/openapi.json")).json()
    own = {
        *(("get", f"/api/instance/{{instanceId}}{part}") for part in ("", "/events", "/logs", "/usage")),
        *(("post", f"/api/instance/{verb}") for verb in ("stop", "restart", "terminate")),
        ("get", "/api/events"),
        ("get", "/api/user/me"),
    }
    refused = 0
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if (method, path) in own or call.get("security") == []:
                continue
            url = path.replace("{instanceId}", id)
            ask = api.get(url, key) if method == "get" else api.post(url, {"instanceId": id}, key)
            answer = await ask
            assert (answer.status_code, answer.json()["error"]) == (403, "instanceKeyOnly"), (method, path)
            refused += 1
    assert refused > 25


async def test_it_dies_with_its_instance(api: Served) -> None:
    id = await launch(api)
    key = await key_of(api, id)
    found = await row(api, id)

    def released(connection: Any) -> None:
        now = api.clock.now()
        going = instances.record(connection, found, Event.TERMINATE, now)
        instances.record(connection, going, Event.ABSENT, now)

    await api.context.database.write(released)
    assert (await api.get("/api/user/me", key)).status_code == 401


async def test_it_is_kept_nowhere_and_made_again(api: Served) -> None:
    id = await launch(api)
    key = (await key_of(api, id))["X-API-Key"]
    assert (await key_of(api, id))["X-API-Key"] == key  # after a crash, at another server
    assert key != (await key_of(api, await launch(api)))["X-API-Key"]
    rows = await api.context.database.read(lambda c: c.execute(text("SELECT * FROM instances")).all())
    assert key not in repr(rows)
    assert key not in repr(await row(api, id))
    secret = Path(api.context.settings.data_dir) / "keys" / SECRET
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in repr(rows)


async def test_without_the_option_there_is_none(api: Served) -> None:
    id = await launch(api, instanceKey=False)
    assert access_of(api.context.settings, await row(api, id)) == {}
    assert not (Path(api.context.settings.data_dir) / "keys").exists()
    answer = await api.post("/api/user/apikey/create", {"name": "x", "scope": "instance"})
    assert answer.status_code == 400


async def test_another_secret_makes_no_key(api: Served) -> None:
    id = await launch(api)
    secret = Path(api.context.settings.data_dir) / "keys" / SECRET
    secret.write_text("ab" * 32)
    assert access_of(api.context.settings, await row(api, id)) == {}
    answer = await api.post("/api/instance/create", LAUNCH | {"instanceKey": True})
    assert (answer.status_code, answer.json()["error"]) == (409, "instanceKeyUnavailable")
    secret.unlink()
    assert access_of(api.context.settings, await row(api, id)) == {}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_an_address_a_launch_is_refused(
    stocked: Stocked, clock: HandClock, keys: Path, tmp_path: Path
) -> None:
    async with served(stocked, clock, keys, data_dir=tmp_path) as api:
        for body in ({"instanceKey": True}, {"instanceKey": True, "dryRun": True}):
            answer = await api.post("/api/instance/create", LAUNCH | body)
            assert (answer.status_code, answer.json()["error"]) == (409, "instanceKeyUnavailable")
            assert "instance_url" in answer.json()["message"]
        listed = await api.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 10}})
        assert json.loads(listed.text)["instances"] == []


@pytest.mark.parametrize(
    ("instance_url", "public_url", "found"),
    [
        ("", "", None),
        ("", "https://gpu.example.org", "https://gpu.example.org"),
        ("http://10.0.0.5:8420/x/", "https://gpu.example.org", "http://10.0.0.5:8420/x"),
        ("", "http://localhost:8420", None),
        ("http://127.0.0.1:8420", "https://gpu.example.org", None),
        ("http://[::1]:8420", "", None),
        ("http://0.0.0.0:8420", "", None),
        ("10.0.0.5:8420", "", None),
        ("http://10.0.0.5:many", "", None),
        ("ftp://10.0.0.5", "", None),
    ],
)
def test_which_address_instances_are_told(instance_url: str, public_url: str, found: str | None) -> None:
    assert url_for_instances(Settings(instance_url=instance_url, public_url=public_url)) == found
