"""Money as its owner reads it: what there is, every change of it, and what things cost."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.api.served import LAUNCH, Served, served
from tests.billing.town import NIGHT, Town
from tests.stock import CPU_TYPE, GPU_TYPE, MONEY, REGION, HandClock, Stocked

from tidemill.model.lifecycle import Event
from tidemill.model.offer import ChargeMode
from tidemill.store import accounts

PAGE = {"pager": {"currentPage": 1, "pageSize": 200}}
HOUR = timedelta(hours=1)
PRICE = 1_234_567  # micro-units per hour: does not divide by seconds


@pytest.fixture
def town(api: Served) -> Town:
    return Town(api.stocked, api.clock, api.context.settings)


@pytest.fixture
async def used(api: Served, town: Town) -> str:
    """An instance that ran for an hour and ten minutes and was stopped, paid with a voucher and a balance."""
    town.price(PRICE, disk=1000)
    town.voucher(10, api.clock.now() + 10 * HOUR)
    id = town.run(data_disk_gb=10)
    await town.pass_by(HOUR + timedelta(minutes=10, microseconds=1))
    town.stop(id)
    await town.settle()
    return id


async def balance(api: Served, **headers: Any) -> dict[str, Any]:
    answer = await api.get("/api/balance", **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_balance_is_exact_and_shows_what_is_held(api: Served, town: Town) -> None:
    assert await balance(api) == {
        "balance": MONEY // 10**6,
        "availableBalance": MONEY // 10**6,
        "availableVoucherAmount": 0,
        "availableCreditAmount": 0,
        "held": 0,
        "currency": "EUR",
        "hoursLeft": None,
    }
    town.funds(2_000_123)
    town.voucher(500_000, api.clock.now() + HOUR)
    town.price(2_200_000)
    id = town.run()
    answer = await api.get("/api/balance")
    assert '"availableVoucherAmount":0.300123' in answer.text  # the balance is held first
    assert answer.json() == {
        "balance": 2.000123,
        "availableBalance": 0,
        "availableVoucherAmount": 0.300123,
        "availableCreditAmount": 0,
        "held": 2.2,
        "currency": "EUR",
        "hoursLeft": 1.14,
    }
    assert (await api.post("/api/balance")).json() == answer.json()
    town.do(id, Event.STOP, Event.ABSENT)
    await town.settle()
    api.clock.pass_by(HOUR.total_seconds() + 1)
    left = await balance(api)
    assert (left["balance"], left["availableVoucherAmount"], left["held"]) == (2.000123, 0, 0)


async def test_charged_a_millionth_shows_a_millionth(api: Served, town: Town) -> None:
    town.price(3600 * 123)
    town.funds(10**9)
    id = town.run()
    await town.pass_by(timedelta(seconds=1))
    town.stop(id)
    await town.settle()
    answer = await api.get("/api/balance")
    assert '"balance":999.999877,' in answer.text


async def test_who_may_ask(api: Served) -> None:
    for path in ("balance", "billing/transactions", "billing/usage", "billing/statement", "billing/price"):
        assert (await api.post(f"/api/{path}", PAGE, {})).status_code == 401
    assert (await api.get("/api/balance", {})).status_code == 401
    key = await api.api_key(scope="read")
    assert (await api.get("/api/balance", key)).status_code == 200
    assert (await api.post("/api/billing/transactions", PAGE, key)).status_code == 200


async def test_somebody_without_a_wallet_has_nothing(api: Served) -> None:
    carol = api.stocked.database.run(
        lambda c: accounts.create_user(
            c, username="carol", password_hash="x", is_admin=False, now=api.clock.now()
        )
    )
    header = api.token(carol)
    assert (await api.get("/api/balance", header)).json()["balance"] == 0
    assert (await api.post("/api/billing/transactions", PAGE, header)).json()["transactions"] == []
    found = (await api.post("/api/billing/statement", {}, header)).json()
    assert (found["opening"], found["lines"], found["totals"], found["closing"]) == (0, [], [], 0)
    assert (await api.post("/api/instance/create", LAUNCH, header)).status_code == 402


async def test_transactions(api: Served, town: Town, used: str) -> None:
    async def found(page: int = 1, size: int = 200, **chosen: Any) -> list[dict[str, Any]]:
        body = {"pager": {"currentPage": page, "pageSize": size}, "filter": chosen}
        answer = await api.post("/api/billing/transactions", body)
        assert answer.status_code == 200, answer.text
        return answer.json()["transactions"]

    rows = await found()
    total = (await api.post("/api/billing/transactions", PAGE)).json()["pager"]["totalEntries"]
    assert total == len(rows) == len({row["id"] for row in rows})
    written = [datetime.fromisoformat(row["at"]) for row in rows]
    assert written == sorted(written, reverse=True)
    assert [each["kind"] for each in rows[::-1]][:3] == ["payment", "voucher", "hold"]
    assert rows[-1] == {
        "id": rows[-1]["id"],
        "at": "2026-03-01T12:00:00Z",
        "kind": "payment",
        "instanceId": None,
        "since": None,
        "until": None,
        "memo": "",
        "corrects": None,
        "amount": MONEY // 10**6,
        "lines": [{"debit": "payments", "credit": "balance", "amount": MONEY // 10**6}],
    }
    assert rows[-2]["lines"] == [{"debit": "promotions", "credit": "voucher/gift", "amount": 0.00001}]
    assert rows[-3] | {"id": ""} == {
        "id": "",
        "at": "2026-03-01T12:00:00Z",
        "kind": "hold",
        "instanceId": used,
        "since": None,
        "until": None,
        "memo": "held while it runs",
        "corrects": None,
        "amount": 0,
        "lines": [{"debit": "balance", "credit": "held", "amount": 1.244567}],
    }
    charges = await found(kinds=["charge"])
    assert await found(kinds=["charge"] * 70_000) == charges
    assert {each["kind"] for each in charges} == {"charge"}
    assert sum(Decimal(str(-each["amount"])) for each in charges) == Decimal(town.spent()) / 10**6
    assert len(charges[-1]["lines"]) == 2  # the voucher, then the balance
    assert await found(2, 5) == rows[5:10]
    assert await found(instanceId=used) == [row for row in rows if row["instanceId"] == used]
    half = "2026-03-01T12:30:00Z"
    assert await found(until=half) + await found(since=half) != rows  # newest first
    assert await found(since=half) + await found(until=half) == rows
    for chosen in ({"kinds": ["gift"]}, {"since": half, "until": "2026-03-01T12:00:00Z"}, {"since": "now"}):
        body = PAGE | {"filter": chosen}
        assert (await api.post("/api/billing/transactions", body)).status_code == 400
    theirs = (await api.post("/api/billing/transactions", PAGE, api.token(api.stocked.bob))).json()
    assert [each["kind"] for each in theirs["transactions"]] == ["payment"]


async def test_usage(api: Served, town: Town, used: str) -> None:
    running = town.run()
    await town.pass_by(timedelta(minutes=7))
    answer = (await api.post("/api/billing/usage", PAGE)).json()
    assert answer["pager"]["totalEntries"] == 2
    new, old = answer["usage"]
    assert (new["instanceId"], old["instanceId"]) == (running, used)
    assert (new["status"], new["seconds"], new["currency"]) == ("Running", 420, "EUR")
    assert Decimal(str(new["accrued"])) + Decimal(str(new["cost"])) == Decimal(PRICE * 7 // 60) / 10**6
    assert old["seconds"] == 4200.000001
    assert Decimal(str(old["cost"])) == Decimal(town.spent(used)) / 10**6
    assert (await api.get(f"/api/instance/{running}/usage")).json() == new
    assert (await api.get(f"/api/instance/{running}/usage", api.token(api.stocked.bob))).status_code == 404
    assert (await api.get("/api/instance/notebook-0/usage")).status_code == 404
    begin = {"since": "2026-03-01T12:00:00Z", "until": "2026-03-01T12:10:00Z"}
    (row,) = (await api.post("/api/billing/usage", PAGE | begin)).json()["usage"]
    assert (row["instanceId"], row["seconds"]) == (used, 600)
    theirs = await api.post("/api/billing/usage", PAGE, api.token(api.stocked.bob))
    assert theirs.json()["usage"] == []


async def test_a_statement_adds_up(api: Served, town: Town, used: str) -> None:
    await town.pass_by(20 * HOUR, step=HOUR)  # the disk costs, the voucher is used up
    town.voucher(7, api.clock.now() + HOUR, "late")
    town.do(used, Event.TERMINATE, Event.ABSENT)
    await town.settle()
    middle, end = "2026-03-01T12:42:00Z", "2100-01-01T00:00:00Z"
    whole = (await api.post("/api/billing/statement", {})).json()
    first = (await api.post("/api/billing/statement", {"until": middle})).json()
    second = (await api.post("/api/billing/statement", {"since": middle, "until": end})).json()
    owned = sum(town.amounts().values())
    for found, opening in ((whole, 0), (first, 0), (second, first["closing"])):
        assert found["opening"] == opening
        for parts in (found["lines"], found["totals"]):
            changed = sum(Decimal(str(each["amount"])) for each in parts)
            assert Decimal(str(opening)) + changed == Decimal(str(found["closing"]))
    assert Decimal(str(whole["closing"])) == Decimal(str(second["closing"])) == Decimal(owned) / 10**6
    assert first["lines"] + second["lines"] == whole["lines"]
    assert {each["kind"] for each in whole["lines"]} == {"payment", "voucher", "charge"}
    assert second["until"] < end
    pages = [
        (await api.post("/api/billing/statement", {"pager": {"currentPage": n, "pageSize": 10}})).json()
        for n in (1, 2)
    ]
    assert pages[0]["lines"] + pages[1]["lines"] == whole["lines"][:20]
    assert pages[0]["closing"] == whole["closing"]
    assert pages[0]["pager"]["totalEntries"] == len(whole["lines"])


@pytest.mark.parametrize("way", ["format", "accept"])
async def test_a_statement_as_csv(
    api: Served, town: Town, used: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.actions.statement.BATCH", 3)
    since = "2026-03-01T12:12:00Z"
    whole = (await api.post("/api/billing/statement", {"since": since})).json()
    asked, headers = ({"format": "csv"}, {}) if way == "format" else ({}, {"Accept": "text/csv"})
    answer = await api.post("/api/billing/statement", {"since": since} | asked, api.token() | headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    opening, *lines, closing = csv.DictReader(io.StringIO(answer.text))
    assert (opening["kind"], opening["at"], closing["kind"]) == ("opening", "2026-03-01T12:12:00Z", "closing")
    assert len(lines) == len(whole["lines"]) > 3
    assert Decimal(opening["owned"]) == Decimal(str(whole["opening"]))
    added = Decimal(opening["owned"])
    for line, known in zip(lines, whole["lines"], strict=True):
        added += Decimal(line["amount"])
        assert Decimal(line["owned"]) == added
        assert (line["id"], line["at"], Decimal(line["amount"])) == (
            known["id"],
            known["at"],
            Decimal(str(known["amount"])),
        )
    assert Decimal(closing["owned"]) == added == Decimal(str(whole["closing"]))
    theirs = await api.post("/api/billing/statement", {"format": "csv"}, api.token(api.stocked.bob))
    assert [row["kind"] for row in csv.DictReader(io.StringIO(theirs.text))] == [
        "opening",
        "payment",
        "closing",
    ]


async def test_the_price_of_a_tide(api: Served, town: Town) -> None:
    town.price(900_000, ChargeMode.TIDE_PER_HOUR, bands=[NIGHT], zone="Europe/Berlin", disk=25)
    asked = {"instanceTypeId": CPU_TYPE.id, "region": REGION.id}
    found = (await api.post("/api/billing/price", asked)).json()
    assert (found["currency"], found["timezone"], found["dataDiskPrice"]) == ("EUR", "UTC", 0.000025)
    assert [each["chargeMode"] for each in found["price"]] == [mode.value for mode in ChargeMode]
    curve = found["segments"]
    assert (curve[0]["start"], curve[-1]["end"]) == ("2026-03-01T12:00:00Z", "2026-03-03T12:00:00Z")
    assert [each["end"] for each in curve[:-1]] == [each["start"] for each in curve[1:]]
    assert [(each["start"], each["band"], each["price"]) for each in curve[:3]] == [
        ("2026-03-01T12:00:00Z", "", 0.9),
        ("2026-03-01T21:00:00Z", "night", 0.0005),
        ("2026-03-02T07:00:00Z", "", 0.9),
    ]
    gpu = (await api.post("/api/billing/price", asked | {"instanceTypeId": GPU_TYPE.id})).json()
    assert gpu["segments"] == []
    for change, status, message in (
        ({"instanceTypeId": "x"}, 404, "instance type not found"),
        ({"region": "x"}, 404, "region not found"),
        (
            {"isSpotInstance": True},
            400,
            'instance type "cpu-1" is not offered as spot; it offers: on demand',
        ),
    ):
        answer = await api.post("/api/billing/price", asked | change)
        assert (answer.status_code, answer.json()["message"]) == (status, message)


async def test_the_catalogue_shows_what_holds_now(api: Served, town: Town) -> None:
    town.price(2_000_001, disk=25)
    town.price(900_000, ChargeMode.TIDE_PER_HOUR, bands=[NIGHT])
    found = (await api.post("/api/resource/user/instance/list", {})).json()
    assert found["currency"] == "EUR"
    (region,) = found["instanceInfos"][0]["regionInfos"]
    assert region["dataDiskPrice"] == 0.000025
    prices = {each["chargeMode"]: each for each in region["instanceTypeInfos"][0]["price"]}
    assert prices["perHour"]["price"] == 2.000001
    assert prices["tidePerHour"]["price"] == 0.9
    (band,) = prices["tidePerHour"]["bands"]
    assert (band["name"], band["from"], band["to"], band["price"]) == ("night", "22:00", "08:00", 0.0005)
    assert len(band["days"]) == 7


async def test_what_is_refused(api: Served) -> None:
    for path in ("transactions", "usage"):
        answer = await api.post(f"/api/billing/{path}", {})
        assert (answer.status_code, answer.json()["message"]) == (400, 'field "pager" is not set')
    backwards = {"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"}
    for path in ("usage", "statement"):
        answer = await api.post(f"/api/billing/{path}", PAGE | backwards)
        assert (answer.status_code, answer.json()["message"]) == (400, 'field "until" is before since')
    answer = await api.post("/api/billing/statement", {"format": "pdf"})
    assert answer.json()["message"] == (
        'value "pdf" for field "format" is not defined in options "[json csv]"'
    )


async def test_the_currency_is_the_setting_s(stocked: Stocked, clock: HandClock, keys: Path) -> None:
    async with served(stocked, clock, keys, currency="USD") as api:
        assert (await balance(api))["currency"] == "USD"
