"""What /metrics shows, to whom, and what it never shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection, text, update
from tests.api.served import LAUNCH, PASSWORD, URL, Served, served
from tests.stock import CPU_TYPE, IMAGE, REGION, HandClock, Stocked

from tidemill.metrics import Metrics
from tidemill.model.errors import Conflict, Unavailable
from tidemill.store import facts
from tidemill.store.schema import instances

TOKEN = "a token of sixteen and more"


def at(app: Served, address: str) -> httpx.AsyncClient:
    """A client at ``address``."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app.app, client=(address, 1)), base_url=URL)


async def local(app: Served) -> str:
    async with at(app, "127.0.0.1") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """By name, each with its labels and value."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.fixture
async def guarded(stocked: Stocked, clock: HandClock, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(stocked, clock, tmp_path / "keys", metrics_token=TOKEN) as made:
        yield made


@pytest.fixture
async def proxied(stocked: Stocked, clock: HandClock, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(stocked, clock, tmp_path / "keys", trusted_proxies="127.0.0.1") as made:
        yield made


async def test_without_a_token_only_this_machine_may_read(api: Served) -> None:
    for address, status in (("127.0.0.1", 200), ("::1", 200), ("198.51.100.7", 403), ("10.213.4.2", 403)):
        async with at(api, address) as client:
            answer = await client.get("/metrics")
        assert answer.status_code == status, address
        assert (status == 200) == ("tidemill_build_info" in answer.text)
    async with at(api, "198.51.100.7") as client:  # whoever is logged in is still a stranger to them
        assert (await client.get("/metrics", headers=api.token())).status_code == 403


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_a_proxy_on_this_machine_opens_them_to_nobody(api: Served, header: str) -> None:
    async with at(api, "127.0.0.1") as client:
        answer = await client.get("/metrics", headers={header: "127.0.0.1"})
    assert answer.status_code == 403


async def test_a_trusted_proxy_says_for_whom_it_asks(proxied: Served) -> None:
    async with at(proxied, "127.0.0.1") as client:
        for address, status in (("198.51.100.7", 403), ("127.0.0.2", 200)):
            answer = await client.get("/metrics", headers={"X-Forwarded-For": address})
            assert answer.status_code == status, address


async def test_with_a_token_who_shows_it_may_read_and_nobody_else(guarded: Served) -> None:
    for said in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, guarded.token()):
        async with at(guarded, "127.0.0.1") as client:
            answer = await client.get("/metrics", headers=said)
        assert answer.status_code == 401
        assert "tidemill_" not in answer.text
    async with at(guarded, "198.51.100.7") as client:
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200


async def test_requests_logins_launches_and_moves_are_counted(api: Served) -> None:
    id = await api.launch()
    key = {"Idempotency-Key": "the same"} | api.token()
    for _ in range(3):
        assert (await api.post("/api/instance/create", LAUNCH, key)).status_code == 200
    assert (await api.post("/api/instance/create", LAUNCH | {"imageId": "none"})).status_code == 404
    assert (await api.post("/api/instance/stop", {"instanceId": id})).status_code == 200
    assert (await api.post("/api/instance/stop", {"instanceId": id})).status_code == 200
    await api.get(f"/api/instance/{id}")
    await api.get("/api/no/such/path")
    await api.post("/api/user/login", {"username": "alice", "password": "wrong"}, {})
    await api.post("/api/user/login", {"username": "alice", "password": PASSWORD}, {})
    found = samples(await local(api))
    assert found["tidemill_launches_total"] == [({"region": REGION.id}, 2)]
    assert found["tidemill_launches_refused_total"] == [({"error": "imageNotFound"}, 1)]
    assert found["tidemill_instance_moves_total"] == [
        ({"region": REGION.id, "event": "stop", "state": "Stopping"}, 1)
    ]
    assert found["tidemill_login_failures_total"] == [({"reason": "wrongPassword"}, 1)]
    requests = {tuple(labels.values()): value for labels, value in found["tidemill_http_requests_total"]}
    assert requests[("POST", "/api/instance/create", "200")] == 4
    assert requests[("GET", "/api/instance/{instanceId}", "200")] == 1
    assert requests[("GET", "", "404")] == 1
    assert requests[("POST", "/api/user/login", "401")] == 1
    assert any(
        labels.get("route") == "/api/instance/create" and labels["le"] == "+Inf" and value == 5
        for labels, value in found["tidemill_http_request_duration_seconds_bucket"]
    )


async def test_the_database_is_counted_when_somebody_looks(api: Served) -> None:
    await api.launch()
    await api.launch()
    api.clock.pass_by(30)
    found = samples(await local(api))
    type_name = {"region": REGION.id, "type": CPU_TYPE.name, "state": "Initializing"}
    assert found["tidemill_instances"] == [(type_name, 2)]
    assert found["tidemill_leases"] == [({"region": REGION.id}, 0)]
    assert found["tidemill_reconcile_oldest_due_seconds"] == [({"region": REGION.id}, 30)]
    assert found["tidemill_devices"] == [({"region": REGION.id, "model": "H100", "state": "free"}, 2)]
    assert ({"region": REGION.id, "state": "given"}, 2) in found["tidemill_cpu_cores"]
    assert ({"region": REGION.id, "state": "free"}, 6) in found["tidemill_cpu_cores"]
    assert ({"region": REGION.id, "state": "given"}, 2 * 2**30) in found["tidemill_memory_bytes"]
    assert found["tidemill_orphans_held"] == [({}, 0)]
    api.stocked.database.run(lambda c: facts.put(c, facts.RESTORED_AT, "2026-03-01T12:00:00Z"))
    assert samples(await local(api))["tidemill_orphans_held"] == [({}, 1)]


async def test_a_database_that_is_away_leaves_the_rest_to_be_seen(api: Served) -> None:
    await api.launch()
    assert "tidemill_database_up 1.0" in await local(api)

    async def away(work: object) -> None:
        raise TimeoutError

    api.context.database.read_much = away  # type: ignore[method-assign]
    text = await local(api)
    assert "tidemill_database_up 0.0" in text
    assert "tidemill_launches_total" in text
    assert "tidemill_instances{" not in text


async def test_nothing_of_a_tenant_shows(api: Served) -> None:
    id = await api.launch()
    await api.get(f"/api/instance/{id}")
    await api.post("/api/user/login", {"username": "alice", "password": "hunter2hunter2"}, {})
    await api.client.request("BREW", "/api/instance/create")
    key = await api.api_key()
    text = await local(api)
    for secret in (id, api.stocked.alice.id, "alice", "hunter2", key["X-API-Key"], "my instance", "BREW"):
        assert secret not in text
    assert IMAGE.id not in text


def test_two_servers_in_one_process_count_apart_and_regions_have_names() -> None:
    first, second = Metrics(version="1.2.3", regions={"id": "west"}), Metrics()
    first.launches.add("id")
    assert 'tidemill_launches_total{region="west"} 1.0' in first.text().decode()
    assert "tidemill_launches_total{" not in second.text().decode()
    assert 'version="1.2.3"' in first.text().decode()


def test_a_reason_that_somebody_made_up_is_no_label() -> None:
    metrics = Metrics()
    metrics.failed("r", "Refused")
    metrics.failed("r", "rm -rf of a tenant")
    text = metrics.text().decode()
    assert 'reason="Refused"' in text
    assert 'reason="other"' in text
    assert "tenant" not in text.replace("tenants", "")


def test_how_a_call_ended_is_told() -> None:
    metrics = Metrics()

    class Refused(Exception):
        pass

    for error in (Refused("no"), ValueError("a defect"), GeneratorExit()):
        with pytest.raises(type(error)), metrics.call("r", "observe"):
            raise error
    with metrics.call("r", "observe"):
        pass
    counts = {
        labels["outcome"]: value
        for labels, value in samples(metrics.text().decode())["tidemill_driver_call_duration_seconds_count"]
    }
    assert counts == {"refused": 1, "failed": 1, "unanswered": 1, "ok": 1}


async def test_transactions_are_timed_and_a_database_in_trouble_is_counted(api: Served) -> None:
    api.context.database.count_in(api.context.metrics)

    def refused(connection: object) -> None:
        raise Unavailable("the disk is full")

    def wrong(connection: object) -> None:
        raise Conflict("somebody's own mistake")

    await api.launch()
    with pytest.raises(Unavailable):
        await api.context.database.write(refused)
    with pytest.raises(Conflict):
        await api.context.database.write(wrong)
    found = samples(await local(api))
    assert found["tidemill_database_errors_total"] == [({"kind": "write"}, 1)]
    counts = {
        labels["kind"]: value
        for labels, value in found["tidemill_database_transaction_duration_seconds_count"]
    }
    assert counts["write"] == 3
    assert counts["read"] >= 1


async def test_a_row_that_cannot_be_read_is_counted_and_said_to_its_owner(api: Served) -> None:
    made = await api.post("/api/instance/create", LAUNCH)
    id = made.json()["instanceId"]

    def work(connection: Connection) -> None:
        of = "" if connection.dialect.name == "sqlite" else " ON instances"
        connection.execute(text(f"DROP TRIGGER instances_known_state{of}"))
        connection.execute(update(instances).where(instances.c.id == id).values(state="Melted"))

    api.stocked.database.run(work)
    found = samples(await local(api))["tidemill_instances"]
    assert [(labels["state"], value) for labels, value in found] == [("unreadable", 1.0)]
    answer = await api.get(f"/api/instance/{id}/events")
    assert (answer.status_code, answer.json()["error"]) == (503, "unreadable")
    assert "tidemill doctor" in answer.json()["message"]
