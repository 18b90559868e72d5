"""Instances and the catalogue as a client meets them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from tests.api.served import LAUNCH, Served, served
from tests.stock import CPU_TYPE, GPU_TYPE, IMAGE, REGION, HandClock, Stocked

from tidemill.drivers.contract import Workload
from tidemill.model.lifecycle import Event, State
from tidemill.store import instances

NOT_FOUND = b'{"message": "ent: instance not found", "error": "instanceNotFound"}'
VERBS = ("start", "stop", "restart", "terminate")
STORAGE = {"mountPath": "/d", "remoteStorageName": "n", "remoteStorageId": "i", "type": "filesystem"}
PAGE = {"pager": {"currentPage": 1, "pageSize": 10}}


def move(api: Served, instance_id: str, *events: Event) -> None:
    """What the loop would have recorded."""

    def work(connection: Any) -> None:
        instance = instances.get(connection, instance_id)
        assert instance is not None
        for event in events:
            instance = instances.record(connection, instance, event, api.clock.now(), reason="r", message="m")

    api.stocked.database.run(work)


async def test_launch_and_list(api: Served) -> None:
    answer = await api.post("/api/instance/create", LAUNCH)
    assert answer.status_code == 200
    assert list(answer.json()) == ["instanceId"]
    instance_id = answer.json()["instanceId"]
    assert instance_id.startswith("notebook-")
    assert await api.context.wake.wait(0.01)
    listed = (await api.post("/api/instance/list", PAGE)).json()
    assert listed["pager"] == {"currentPage": 1, "pageSize": 10, "totalEntries": 1}
    (row,) = listed["instances"]
    assert row["instanceMetadata"]["instanceId"] == instance_id
    assert row["instanceRuntimeInfo"]["status"] == "Initializing"
    assert [each["port"] for each in row["instanceSpecInfo"]["nodePorts"]] == [22, 7891]
    assert (await api.get(f"/api/instance/{instance_id}")).json() == row


async def test_bodies_need_no_content_type(api: Served) -> None:
    """curl sends a form's content type when nobody says otherwise."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await api.post("/api/instance/create", LAUNCH, api.token() | headers)).status_code == 200


async def test_the_seed_s_error_bodies(api: Served) -> None:
    asked = {key: value for key, value in LAUNCH["instanceConfiguration"].items() if key != "enableDocker"}
    answer = await api.post("/api/instance/create", LAUNCH | {"instanceConfiguration": asked})
    assert answer.status_code == 400
    assert answer.content.startswith(
        b'{"message": "field \\"instanceConfiguration.enableDocker\\" is not set"'
    )
    answer = await api.post("/api/instance/create", LAUNCH, {})
    assert answer.status_code == 401
    assert answer.content == (
        b'{"code": -1, "message": "Not logged in or login expired, please log in again"}'
    )


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"imageId": "x"}, 404, "image not found"),
        ({"instanceTypeId": "x"}, 404, "instance type not found"),
        ({"region": "x"}, 404, "region not found"),
        (
            {
                "remoteStorages": [
                    {
                        "mountPath": "/d",
                        "remoteStorageName": "n",
                        "remoteStorageId": "i",
                        "type": "filesystem",
                    }
                ]
            },
            404,
            "volume not found",
        ),
        (
            {"instanceTypeId": GPU_TYPE.id, "billing": {"chargeMode": "perDay", "duration": 1}},
            400,
            'instance type "1x H100" does not offer the charge mode "perDay"; it offers: perHour',
        ),
        ({"waitForCapacity": True}, 400, 'field "waitForCapacity" is not offered by this server yet'),
        (
            {"autoRenew": True},
            400,
            'field "autoRenew" is for perDay, perWeek and perMonth; "perHour" has no term',
        ),
        ({"remoteStorages": None}, 400, 'field "remoteStorages" is not set'),
    ],
)
async def test_refusals(api: Served, change: dict[str, Any], status: int, message: str) -> None:
    answer = await api.post("/api/instance/create", LAUNCH | change)
    assert (answer.status_code, answer.json()["message"]) == (status, message)
    assert set(answer.json()) == {"message", "error"}
    assert (await api.post("/api/instance/list", PAGE)).json()["instances"] == []


async def test_out_of_stock(api: Served) -> None:
    order = LAUNCH | {"instanceTypeId": GPU_TYPE.id}
    for _ in range(2):
        assert (await api.post("/api/instance/create", order)).status_code == 200
    answer = await api.post("/api/instance/create", order)
    assert answer.status_code == 409
    assert answer.json() == {
        "message": 'instance type "1x H100" is out of stock in region "local"; in stock: cpu-1 in local',
        "error": "outOfStock",
    }


async def test_the_same_idempotency_key_is_the_same_instance(api: Served) -> None:
    key = api.token() | {"Idempotency-Key": "my key"}
    first, second = [await api.post("/api/instance/create", LAUNCH, key) for _ in range(2)]
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    other = await api.post("/api/instance/create", LAUNCH | {"name": "other"}, key)
    assert other.status_code == 409
    assert (await api.post("/api/instance/list", PAGE)).json()["pager"]["totalEntries"] == 1


async def test_two_idempotency_keys_are_none(api: Served) -> None:
    headers = [*api.token().items(), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = await api.client.post("/api/instance/create", json=LAUNCH, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalidIdempotencyKey")


@pytest.mark.parametrize("key", ["", "x" * 256, "schlüssel", "a\tb"])
async def test_bad_idempotency_keys(api: Served, key: str) -> None:
    headers = api.token() | {"Idempotency-Key": key.encode("latin-1")}
    answer = await api.post("/api/instance/create", LAUNCH, headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()["error"]) == (400, "invalidIdempotencyKey")


async def test_verbs_answer_at_once_and_may_be_repeated(api: Served) -> None:
    instance_id = await api.launch()
    move(api, instance_id, Event.PLACED, Event.REACHABLE)
    for verb, status in (("restart", "Restarting"), ("stop", "Stopping"), ("terminate", "Stopping")):
        for _ in range(2):
            answer = await api.post(f"/api/instance/{verb}", {"instanceId": instance_id})
            assert (answer.status_code, answer.json()) == (200, {"instanceId": instance_id})
        assert await api.context.wake.wait(0.01)
        row = (await api.get(f"/api/instance/{instance_id}")).json()
        assert row["instanceRuntimeInfo"]["status"] == status
    answer = await api.post("/api/instance/start", {"instanceId": instance_id})
    assert answer.status_code == 409
    assert answer.json()["error"] == "stateForbids"
    move(api, instance_id, Event.ABSENT)
    for verb in VERBS:
        answer = await api.post(f"/api/instance/{verb}", {"instanceId": instance_id})
        assert (answer.status_code, answer.content) == (404, NOT_FOUND)
    assert (await api.get(f"/api/instance/{instance_id}")).status_code == 200


async def test_somebody_else_s_is_not_there(api: Served) -> None:
    mine = await api.launch()
    bob = api.token(api.stocked.bob)
    for instance_id in (mine, "notebook-0"):
        for verb in VERBS:
            answer = await api.post(f"/api/instance/{verb}", {"instanceId": instance_id}, bob)
            assert (answer.status_code, answer.content) == (404, NOT_FOUND)
        for path in ("", "/events", "/logs"):
            answer = await api.get(f"/api/instance/{instance_id}{path}", bob)
            assert (answer.status_code, answer.content) == (404, NOT_FOUND)
    assert (await api.post("/api/instance/list", PAGE, bob)).json()["instances"] == []


@pytest.mark.parametrize("path", ["/api/instance/delete", "/api/instance/x", "/api/nothing", "/", "/api"])
async def test_paths_that_are_not_there(api: Served, path: str) -> None:
    for answer in (await api.post(path, {}), await api.get(path)):
        assert answer.status_code == 404
        assert answer.json()["error"] == "pathNotFound"


async def test_pages_and_filters(api: Served) -> None:
    ids: list[str] = []
    for _ in range(5):
        ids.append(await api.launch())
        api.clock.pass_by(1)
    move(api, ids[0], Event.PLACED, Event.REACHABLE)
    move(api, ids[1], Event.TERMINATE, Event.ABSENT)

    async def found(page: int = 1, size: int = 200, **chosen: Any) -> tuple[list[str], int]:
        body = {"pager": {"currentPage": page, "pageSize": size}, "filter": chosen}
        answer = (await api.post("/api/instance/list", body)).json()
        rows = [row["instanceMetadata"]["instanceId"] for row in answer["instances"]]
        return rows, answer["pager"]["totalEntries"]

    newest = [ids[4], ids[3], ids[2], ids[0]]
    assert await found() == (newest, 4)
    assert await found(1, 3) == (newest[:3], 4)
    assert await found(2, 3) == (newest[3:], 4)
    assert await found(2**31 - 1, 200) == ([], 4)
    assert await found(includeReleased=True) == ([*newest[:3], ids[1], ids[0]], 5)
    assert await found(status="Running") == ([ids[0]], 1)
    assert await found(status=["Running", "Released"]) == ([ids[1], ids[0]], 2)
    assert await found(name="my") == (newest, 4)
    assert await found(name="MY") == (newest, 4)
    assert await found(name="%") == ([], 0)
    assert await found(region=REGION.id) == (newest, 4)
    assert await found(region="x") == ([], 0)
    assert await found(status=[]) == ([], 0)


async def test_a_list_without_a_pager(api: Served) -> None:
    for body in (None, {}):
        answer = await api.post("/api/instance/list", body)
        assert (answer.status_code, answer.json()["message"]) == (400, 'field "pager" is not set')


async def test_events(api: Served) -> None:
    instance_id = await api.launch()
    move(api, instance_id, Event.PLACED, Event.REACHABLE)
    path = f"/api/instance/{instance_id}/events"
    events = (await api.get(path)).json()["events"]
    assert [(each["event"], each["from"], each["to"]) for each in events] == [
        ("launch", "Initializing", "Initializing"),
        ("placed", "Initializing", "Starting"),
        ("running", "Starting", "Running"),
    ]
    assert list(events[0]) == ["seq", "at", "event", "from", "to", "start", "reason", "message"]
    assert (await api.get(f"{path}?after={events[1]['seq']}")).json()["events"] == events[2:]
    assert (await api.get(f"{path}?limit=1")).json()["events"] == events[:1]
    for query in (
        "after=x",
        "after=-1",
        "after=1.0",
        "limit=1001",
        "after=99999999999999999999999",
        "after=١",
    ):
        answer = await api.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalidQuery")


async def test_logs(api: Served) -> None:
    instance_id = await api.launch()
    path = f"/api/instance/{instance_id}/logs"
    empty = await api.get(path)
    assert (empty.status_code, empty.content) == (200, b"")
    assert empty.headers["content-type"] == "text/plain; charset=utf-8"
    for start in (1, 2):
        await api.driver.ensure_running(
            Workload(instance_id, start, "t", "h", "i", 1, 1, 1, 1, (), (), b"k" * 32)
        )
    assert (await api.get(path)).content == b"simulated start 1\nsimulated start 2\n"
    assert (await api.get(f"{path}?tail=1&follow=true")).content == b"simulated start 2\n"
    for query in ("tail=x", "tail=-1", "follow=yes", "follow="):
        assert (await api.get(f"{path}?{query}")).status_code == 400
    api.driver.dials.unreachable = "no"
    assert (await api.get(path)).status_code == 503


async def test_the_catalogue(api: Served) -> None:
    answer = (await api.post("/api/resource/user/instance/list", {})).json()
    assert [(each["gpuName"], each["isSpotInstance"]) for each in answer["instanceInfos"]] == [
        ("", False),
        ("H100", False),
    ]
    kinds = answer["instanceInfos"][0]["regionInfos"][0]["instanceTypeInfos"]
    assert [(each["instanceTypeId"], each["stockStatus"]) for each in kinds] == [(CPU_TYPE.id, "InStock")]
    assert (await api.post("/api/resource/image/list")).json() == {
        "images": [{"imageId": IMAGE.id, "imageName": "Debian 12", "description": ""}]
    }
    assert (await api.post("/api/resource/region/list")).json() == {
        "regions": [{"regionId": REGION.id, "regionName": "local", "sshAddress": "gpu.example.org"}]
    }
    for path in ("user/instance/list", "image/list", "region/list"):
        assert (await api.post(f"/api/resource/{path}", {}, {})).status_code == 401


async def test_a_logout_on_another_server_is_seen_at_once(api: Served) -> None:
    token = api.token()
    assert (await api.get("/api/user/me", token)).status_code == 200
    other = create_engine(api.context.database.url)
    with other.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET token_epoch = token_epoch + 1")
    other.dispose()
    assert (await api.get("/api/user/me", token)).status_code == 401


async def test_many_launches_at_once(api: Served) -> None:
    ids = await asyncio.gather(*(api.launch() for _ in range(8)))
    assert len(set(ids)) == 8
    rows = (await api.post("/api/instance/list", PAGE)).json()["instances"]
    ports = [port["nodePort"] for row in rows for port in row["instanceSpecInfo"]["nodePorts"]]
    assert len(ports) == len(set(ports)) == 16
    assert {row["instanceRuntimeInfo"]["status"] for row in rows} == {State.INITIALIZING.value}


async def test_a_quota_refuses_a_launch_and_a_start_and_says_which_limit_and_use(
    stocked: Stocked, clock: HandClock, keys: Path
) -> None:
    gpu = LAUNCH | {"instanceTypeId": GPU_TYPE.id}
    async with served(stocked, clock, keys, quota_instances=3, quota_gpus=1) as api:
        first = (await api.post("/api/instance/create", gpu)).json()["instanceId"]
        answer = await api.post("/api/instance/create", gpu)
        assert answer.status_code == 403
        assert answer.json()["error"] == "overQuota"
        assert answer.json()["message"].startswith("quota GPUs: the limit is 1, 1 are in use")
        move(api, first, Event.STOP, Event.EXITED)
        await api.launch()
        assert (await api.post("/api/instance/create", gpu)).status_code == 200
        answer = await api.post("/api/instance/start", {"instanceId": first})
        assert (answer.status_code, answer.json()["error"]) == (403, "overQuota")
        answer = await api.post("/api/instance/create", LAUNCH)
        assert answer.json()["message"].startswith("quota instances: the limit is 3, 3 are in use")
        bob = await api.post("/api/instance/create", LAUNCH, api.token(stocked.bob))
        assert bob.status_code == 200
