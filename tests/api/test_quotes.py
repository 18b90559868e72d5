"""A dry run says what the launch itself would have done, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from tests.api.served import LAUNCH, Served
from tests.stock import CPU_TYPE, GPU_TYPE, MONEY, REGION, START

from tidemill.model.lifecycle import Event
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band
from tidemill.reconcile.billing import Billing
from tidemill.store import instances, schema, tariffs
from tidemill.wake import Wake

LEFT = tuple(
    schema.metadata.tables[name]
    for name in ("instances", "events", "reservations", "node_ports", "holds", "launch_keys", "meters")
)


def rows(api: Served) -> dict[str, int]:
    """How many rows there are of everything that a launch writes, and what it moves."""

    def work(connection: Any) -> dict[str, int]:
        found = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (*LEFT, schema.entries)
        }
        return found | {
            "cpu": connection.execute(select(func.sum(schema.nodes.c.cpu_used))).scalar_one(),
            "devices": connection.execute(select(func.count(schema.devices.c.instance_id))).scalar_one(),
            "money": int(
                connection.execute(
                    select(func.sum(schema.ledger_accounts.c.amount_micro)).where(
                        schema.ledger_accounts.c.kind == "balance"
                    )
                ).scalar_one()
            ),
        }

    return api.stocked.database.run(work)


def price(api: Served, mode: ChargeMode, amount: int, bands: tuple[Band, ...] = ()) -> None:
    row = tariffs.Price(
        0, CPU_TYPE.id, REGION.id, mode.value, False, amount, bands, "UTC", START, tariffs.ADMIN
    )
    api.stocked.database.run(lambda connection: tariffs.add(connection, row))


async def test_a_quote_and_nothing_else(api: Served) -> None:
    before = rows(api)
    answer = await api.post("/api/instance/create", LAUNCH | {"dryRun": True}, api.token())
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "dryRun": True,
        "quote": {
            "currency": "EUR",
            "chargeMode": "perHour",
            "duration": 1,
            "price": 1.5,
            "priceNow": 1.5,
            "bands": [],
            "termTotal": None,
            "diskPerHour": 0,
            "hold": 1.5,
            "available": MONEY // 10**6,
        },
    }
    key = api.token() | {"Idempotency-Key": "my key"}
    assert (await api.post("/api/instance/create", LAUNCH | {"dryRun": True}, key)).json() == answer.json()
    assert rows(api) == before
    assert (await api.post("/api/instance/create", LAUNCH, key)).status_code == 200
    held = rows(api)
    assert held["money"] == before["money"] - 1_500_000
    again = (await api.post("/api/instance/create", LAUNCH | {"dryRun": True})).json()["quote"]
    assert again["available"] == (MONEY - 1_500_000) / 10**6
    assert rows(api) == held


async def test_the_quote_of_a_tide_and_of_a_term(api: Served) -> None:
    noon = Band("noon", frozenset(range(7)), 12 * 60, 13 * 60, 500_000)
    price(api, ChargeMode.TIDE_PER_HOUR, 900_000, (noon,))
    tide = LAUNCH | {"billing": {"chargeMode": "tidePerHour", "duration": 1}, "dryRun": True}
    quote = (await api.post("/api/instance/create", tide)).json()["quote"]
    assert (quote["price"], quote["priceNow"], quote["hold"]) == (0.9, 0.5, 0.5)
    assert quote["bands"][0] | {"days": []} == {
        "name": "noon",
        "days": [],
        "from": "12:00",
        "to": "13:00",
        "price": 0.5,
    }
    weeks = LAUNCH | {"billing": {"chargeMode": "perWeek", "duration": 3}, "autoRenew": True, "dryRun": True}
    quote = (await api.post("/api/instance/create", weeks)).json()["quote"]
    assert (quote["price"], quote["priceNow"], quote["termTotal"], quote["hold"]) == (1.5, None, 4.5, 4.5)


async def test_a_dry_run_makes_every_check(api: Served) -> None:
    gpu = LAUNCH | {"instanceTypeId": GPU_TYPE.id}
    price(api, ChargeMode.PER_HOUR, MONEY + 1)
    dear = await api.post("/api/instance/create", LAUNCH | {"dryRun": True})
    assert (dear.status_code, dear.json()["error"]) == (402, "notEnoughMoney")
    assert "10000.000001 EUR must be set aside" in dear.json()["message"]
    for _ in range(2):
        assert (await api.post("/api/instance/create", gpu)).status_code == 200
    full = await api.post("/api/instance/create", gpu | {"dryRun": True})
    assert (full.status_code, full.json()["error"]) == (409, "outOfStock")
    missing = await api.post("/api/instance/create", LAUNCH | {"dryRun": True, "imageId": "x"})
    assert missing.status_code == 404


async def test_what_is_used_and_not_posted_is_not_available(api: Served) -> None:
    """As the launch itself would have it: two hours at 1.5 were used, one of which is set aside."""
    instance_id = (await api.post("/api/instance/create", LAUNCH)).json()["instanceId"]

    def begin(connection: Any) -> None:
        instance = instances.get(connection, instance_id)
        assert instance is not None
        for event in (Event.PLACED, Event.REACHABLE):
            instance = instances.record(connection, instance, event, api.clock.now())

    api.stocked.database.run(begin)
    api.clock.pass_by(2 * 3600)
    quote = (await api.post("/api/instance/create", LAUNCH | {"dryRun": True})).json()["quote"]
    assert (quote["hold"], quote["available"]) == (1.5, (MONEY - 3_000_000) / 10**6)
    price(api, ChargeMode.PER_HOUR, MONEY)
    said = (await api.post("/api/instance/create", LAUNCH | {"dryRun": True})).json()["message"]
    assert f"{quote['available']:g} EUR is available" in said


async def test_the_quote_of_a_start(api: Served) -> None:
    weeks = LAUNCH | {"billing": {"chargeMode": "perWeek", "duration": 2}, "maxSpend": 7.25}
    instance_id = (await api.post("/api/instance/create", weeks)).json()["instanceId"]

    def move(*events: Event) -> None:
        def work(connection: Any) -> None:
            instance = instances.get(connection, instance_id)
            assert instance is not None
            for event in events:
                instance = instances.record(connection, instance, event, api.clock.now())

        api.stocked.database.run(work)

    row = (await api.get(f"/api/instance/{instance_id}")).json()["instanceSpecInfo"]["billing"]
    assert row == {
        "chargeMode": "perWeek",
        "duration": 2,
        "price": 1.5,
        "currency": "EUR",
        "termEndsAt": None,
        "autoRenew": False,
        "maxSpend": 7.25,
    }
    body = {"instanceId": instance_id, "dryRun": True}
    running = (await api.post("/api/instance/start", body)).json()["quote"]
    assert (running["hold"], running["termTotal"]) == (0, 3)  # it is to run already
    move(Event.PLACED, Event.REACHABLE)
    row = (await api.get(f"/api/instance/{instance_id}")).json()["instanceSpecInfo"]["billing"]
    assert row["termEndsAt"] == "2026-03-15T12:00:00Z"
    move(Event.STOP, Event.ABSENT)
    await Billing(api.stocked.database, api.clock, api.context.settings, Wake()).post()
    before = rows(api)
    assert (await api.post("/api/instance/start", body)).json()["quote"]["hold"] == 0  # within its term
    api.clock.pass_by(15 * 86400)
    price(api, ChargeMode.PER_WEEK, 2_000_000)
    quote = (await api.post("/api/instance/start", body)).json()["quote"]
    assert (quote["price"], quote["hold"]) == (2, 4)  # a new term at the price of today
    assert rows(api) == before
    state = (await api.get(f"/api/instance/{instance_id}")).json()
    assert state["instanceRuntimeInfo"]["status"] == "Stopped"
    assert (await api.post("/api/instance/start", body, api.token(api.stocked.bob))).status_code == 404
