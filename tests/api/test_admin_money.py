"""What the operator does with money; for everybody else there is nothing at these paths."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update
from tests.api.served import LAUNCH, Served
from tests.billing.audited import differences
from tests.billing.town import Town
from tests.stock import CPU_TYPE, GPU_TYPE, MONEY, REGION

from tidemill.model.ledger import Cause
from tidemill.model.lifecycle import Event, State
from tidemill.store.schema import users

PAGE = {"pager": {"currentPage": 1, "pageSize": 200}}
HOUR = timedelta(hours=1)
CALLS = ("credit", "voucher", "monthlyCredit", "refund", "price", "prices", "users", "transactions")
PRICE = {"region": REGION.id, "chargeMode": "perHour", "instanceTypeId": CPU_TYPE.id, "price": 2.5}


@pytest.fixture
def town(api: Served) -> Any:
    """With bob as the operator; at the end both books agree."""
    api.stocked.database.run(
        lambda c: c.execute(update(users).where(users.c.username == "bob").values(is_admin=True))
    )
    yield Town(api.stocked, api.clock, api.context.settings)
    assert differences(api.stocked.database) == []


async def operate(api: Served, call: str, body: dict[str, Any]) -> Any:
    return await api.post(f"/api/admin/{call}", body, api.token(api.stocked.bob))


async def done(api: Served, call: str, **body: Any) -> dict[str, Any]:
    answer = await operate(api, call, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(api: Served, call: str, **body: Any) -> tuple[int, str]:
    answer = await operate(api, call, body)
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["error"]


async def test_for_everybody_else_there_is_nothing(api: Served, town: Town) -> None:
    nothing = (await api.post("/api/nothing", {})).content
    for call in CALLS:
        for body in ({}, PAGE | {"username": "bob"}):
            answer = await api.post(f"/api/admin/{call}", body)
            assert (answer.status_code, answer.content) == (404, nothing)
        assert (await api.post(f"/api/admin/{call}", {}, {})).status_code == 401
        assert (await operate(api, call, {})).status_code == 400


async def test_a_payment_is_written_once(api: Served, town: Town) -> None:
    paid = {"username": "Alice", "amount": 12.500001, "id": "invoice 7", "memo": "by wire"}
    first = await done(api, "credit", **paid)
    assert first["transaction"] | {"id": ""} == {
        "id": "",
        "at": "2026-03-01T12:00:00Z",
        "kind": "payment",
        "instanceId": None,
        "since": None,
        "until": None,
        "memo": "by wire",
        "corrects": None,
        "amount": 12.500001,
        "lines": [{"debit": "payments", "credit": "balance", "amount": 12.500001}],
    }
    api.clock.pass_by(5)
    again = await asyncio.gather(*(done(api, "credit", **paid) for _ in range(5)))
    assert again == [first] * 5
    assert (await api.get("/api/balance")).json()["balance"] == MONEY // 10**6 + 12.500001
    assert await refused(api, "credit", **paid | {"amount": 12.5}) == (409, "idUsed")
    assert await refused(api, "credit", **paid | {"amount": -12.500001}) == (409, "idUsed")
    by_id = {"userId": api.stocked.alice.id, "amount": 1, "id": "invoice 8"}
    assert (await done(api, "credit", **by_id))["transaction"]["amount"] == 1
    for whom in ({"username": "nobody"}, {"userId": "x"}):
        assert await refused(api, "credit", **whom, amount=1, id="x") == (404, "userNotFound")
    for body, message in (
        ({"amount": 1, "id": "x"}, 'field "username" is not set'),
        ({"username": "alice", "id": "x"}, 'field "amount" is not set'),
        ({"username": "alice", "amount": 1}, 'field "id" is not set'),
        ({"username": "alice", "amount": "1", "id": "x"}, 'type mismatch for field "amount"'),
        ({"username": "alice", "amount": 0, "id": "x"}, 'field "amount" may not be 0'),
        ({"username": "alice", "amount": 1, "id": "x" * 51}, 'field "id" must have 1 to 50 characters'),
    ):
        assert (await operate(api, "credit", body)).json()["message"] == message


async def test_paid_back_but_never_below_zero(api: Served, town: Town) -> None:
    town.funds(10_000_000)
    town.price(1_500_000)
    town.run()
    assert await refused(api, "credit", username="alice", amount=-8.500001, id="a") == (409, "notEnoughMoney")
    back = await done(api, "credit", username="alice", amount=-8.5, id="b")
    assert (back["transaction"]["kind"], back["transaction"]["amount"]) == ("payout", -8.5)
    assert await done(api, "credit", username="alice", amount=-8.5, id="b") == back
    assert (await api.get("/api/balance")).json()["availableBalance"] == 0


async def test_who_pays_in_may_start_again_at_once(api: Served, town: Town) -> None:
    town.price(3_600_000, disk=1_000_000)
    town.funds(30_000_000)
    id = town.run(data_disk_gb=10)
    await town.pass_by(3 * HOUR)
    assert town.state(id) is State.STOPPING
    town.do(id, Event.ABSENT)
    await town.pass_by(timedelta(minutes=1), step=timedelta(seconds=10))
    assert town.state(id) is State.ARCHIVED
    assert (await api.post("/api/instance/start", {"instanceId": id})).status_code == 402
    await done(api, "credit", username="alice", amount=100, id="more")
    await town.billing.run_pass()
    assert town.state(id) is State.STOPPED
    assert (await api.post("/api/instance/start", {"instanceId": id})).status_code == 200


async def test_a_voucher_is_spent_first_and_expires(api: Served, town: Town) -> None:
    given = {"username": "alice", "amount": 3, "id": "spring", "expiresAt": "2026-03-02T12:00:00Z"}
    first = await done(api, "voucher", **given, name="Spring")
    assert first["transaction"]["lines"] == [{"debit": "promotions", "credit": "voucher/spring", "amount": 3}]
    assert await done(api, "voucher", **given, name="Spring") == first
    assert await refused(api, "voucher", **given | {"amount": 4}) == (409, "idUsed")
    assert await refused(api, "voucher", **given | {"expiresAt": "2026-03-03T12:00:00Z"}) == (409, "idUsed")
    late = {"username": "alice", "amount": 3, "id": "late", "expiresAt": "2026-03-01T12:00:00Z"}
    assert await refused(api, "voucher", **late) == (400, "invalidField")
    assert (await api.get("/api/balance")).json()["availableVoucherAmount"] == 3
    await town.pass_by(25 * HOUR, step=HOUR)
    assert (await api.get("/api/balance")).json()["availableVoucherAmount"] == 0
    assert await done(api, "voucher", **given) == first  # a retry that comes late
    assert [each.amount for each in town.entries(Cause.EXPIRY)] == [3_000_000]


async def test_credit_for_each_month(api: Served, town: Town) -> None:
    answer = await done(api, "monthlyCredit", username="alice", amount=20)
    assert answer == {
        "userId": api.stocked.alice.id,
        "username": "alice",
        "monthlyCredit": 20,
        "currency": "EUR",
    }
    await town.billing.run_pass()
    assert (await api.get("/api/balance")).json()["availableCreditAmount"] == 20
    await town.pass_by(timedelta(days=31), step=timedelta(hours=12))
    assert (await api.get("/api/balance")).json()["availableCreditAmount"] == 20
    await done(api, "monthlyCredit", username="alice", amount=0)
    await town.pass_by(timedelta(days=31), step=timedelta(hours=12))
    assert (await api.get("/api/balance")).json()["availableCreditAmount"] == 0


async def charged(api: Served, town: Town) -> dict[str, Any]:
    """A charge of 1 unit, of which a voucher paid 0.25."""
    town.price(12_000_000)
    town.voucher(250_000, api.clock.now() + HOUR)
    id = town.run()
    await town.pass_by(timedelta(minutes=5))
    town.stop(id)
    await town.settle()
    (row,) = (await done(api, "transactions", username="alice", **PAGE, filter={"kinds": ["charge"]}))[
        "transactions"
    ]
    assert (row["amount"], len(row["lines"])) == (-1, 2)
    return row


async def test_a_refund_goes_back_where_the_money_came_from(api: Served, town: Town) -> None:
    row = await charged(api, town)
    before = town.amounts()
    part = await done(api, "refund", postingId=row["id"], amount=0.5, memo="a slow disk")
    assert part["transaction"] | {"at": "", "id": ""} == {
        "id": "",
        "at": "",
        "kind": "refund",
        "instanceId": row["instanceId"],
        "since": None,
        "until": None,
        "memo": "a slow disk",
        "corrects": row["id"],
        "amount": 0.5,
        "lines": [{"debit": "revenue", "credit": "balance", "amount": 0.5}],
    }
    assert await done(api, "refund", postingId=row["id"], amount=0.5) == part
    assert await refused(api, "refund", postingId=row["id"]) == (409, "idUsed"), "all that is left is more"
    assert await refused(api, "refund", postingId=row["id"], amount=0.1) == (409, "idUsed")
    too_much = {"postingId": row["id"], "id": "2", "amount": 0.500001}
    assert await refused(api, "refund", **too_much) == (409, "notRefundable")
    rest = await done(api, "refund", postingId=row["id"], id="2")
    assert rest["transaction"]["lines"] == [
        {"debit": "revenue", "credit": "balance", "amount": 0.25},
        {"debit": "revenue", "credit": "voucher/gift", "amount": 0.25},
    ]
    assert await done(api, "refund", postingId=row["id"], id="2") == rest
    assert await done(api, "refund", postingId=row["id"], id="2", amount=0.5) == rest
    assert await refused(api, "refund", postingId=row["id"], id="2", amount=0.25) == (409, "idUsed")
    assert await refused(api, "refund", postingId=row["id"], id="3") == (409, "notRefundable")
    after = town.amounts()
    assert after["balance"] == before["balance"] + 750_000
    assert after["voucher/gift"] == 250_000
    used = (await api.get(f"/api/instance/{row['instanceId']}/usage")).json()
    assert (used["cost"], used["refunded"]) == (1, 1)
    found = (await api.post("/api/billing/statement", {})).json()
    added = sum(Decimal(str(each["amount"])) for each in found["lines"])
    assert added == Decimal(str(found["closing"]))
    payment = (await done(api, "transactions", username="alice", **PAGE))["transactions"][-1]
    assert await refused(api, "refund", postingId=payment["id"]) == (409, "notRefundable")
    assert await refused(api, "refund", postingId="charge:0:0") == (404, "postingNotFound")


async def test_refunds_at_once_are_never_more_than_was_charged(api: Served, town: Town) -> None:
    row = await charged(api, town)
    asked = [{"postingId": row["id"], "amount": 0.3, "id": str(number)} for number in range(8)]
    answers = await asyncio.gather(*(operate(api, "refund", body) for body in asked))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 5
    assert sum(each.amount for each in town.entries(Cause.REFUND)) == 900_000


async def test_what_is_refunded_into_an_expired_voucher_expires_again(api: Served, town: Town) -> None:
    """As often as that happens, and be it the same amount: nothing is left where nobody can spend it."""
    row = await charged(api, town)
    await town.pass_by(2 * HOUR, step=HOUR)
    for number in range(3):
        amount = 0.75 if not number else 0.125
        await done(api, "refund", postingId=row["id"], amount=amount, id=str(number))
        await town.settle()
        api.clock.pass_by(1)
    assert [each.amount for each in town.entries(Cause.EXPIRY)] == [125_000, 125_000]
    assert town.amounts()["voucher/gift"] == 0


async def test_a_price_holds_for_launches_from_now_on(api: Served, town: Town) -> None:
    old = await api.launch()
    made = await done(api, "price", **PRICE)
    assert made == {
        "currency": "EUR",
        "price": {
            "instanceTypeId": CPU_TYPE.id,
            "region": REGION.id,
            "chargeMode": "perHour",
            "isSpotInstance": False,
            "price": 2.5,
            "bands": [],
            "timezone": "UTC",
            "validFrom": "2026-03-01T12:00:00Z",
            "source": "admin",
        },
    }
    api.clock.pass_by(60)
    assert await done(api, "price", **PRICE) == made
    new = await api.launch()
    rows = [(await api.get(f"/api/instance/{id}")).json()["instanceSpecInfo"] for id in (old, new)]
    assert [row["billing"]["price"] for row in rows] == [1.5, 2.5]
    night = {"name": "night", "days": ["sat", "sun"], "from": "22:00", "to": "06:30", "price": 0.1}
    tide = await done(api, "price", **PRICE | {"chargeMode": "tidePerHour", "bands": [night]})
    assert tide["price"]["bands"] == [night]
    disk = {"region": REGION.id, "chargeMode": "dataDisk", "price": 0.0001}
    assert (await done(api, "price", **disk))["price"]["instanceTypeId"] == ""
    order = LAUNCH | {"dryRun": True}
    order["instanceConfiguration"] = LAUNCH["instanceConfiguration"] | {"extraDataDiskSizeDB": 100}
    quote = (await api.post("/api/instance/create", order)).json()["quote"]
    assert (quote["price"], quote["diskPerHour"], quote["hold"]) == (2.5, 0.01, 2.51)
    of_type = {"instanceTypeId": CPU_TYPE.id, "chargeMode": "perHour"}
    found = await done(api, "prices", **PAGE, filter=of_type)
    assert [(each["price"], each["source"]) for each in found["prices"]] == [(2.5, "admin"), (1.5, "file")]
    since = await done(api, "prices", **PAGE, filter={"since": "2026-03-01T12:00:30Z"})
    assert [each["chargeMode"] for each in since["prices"]] == ["dataDisk", "tidePerHour"]
    assert since["pager"]["totalEntries"] == 2


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"region": "x"}, 404, "region not found"),
        ({"instanceTypeId": "x"}, 404, "instance type not found"),
        ({"instanceTypeId": None}, 400, 'field "instanceTypeId" is not set'),
        (
            {"instanceTypeId": GPU_TYPE.id, "chargeMode": "perDay"},
            400,
            'instance type "1x H100" does not offer the charge mode "perDay"; it offers: perHour; '
            "tidemill.toml says what it offers",
        ),
        (
            {"isSpotInstance": True},
            400,
            'instance type "cpu-1" is not offered as spot; it offers: on demand',
        ),
        ({"price": -1}, 400, 'field "price" may not be below 0'),
        ({"price": None}, 400, 'field "price" is not set'),
        (
            {"chargeMode": "dataDisk"},
            400,
            'field "instanceTypeId" must be left out for dataDisk, which is for all types',
        ),
        ({"bands": [{}]}, 400, 'field "bands[0].name" is not set'),
        (
            {"bands": [{"name": "n", "from": "22", "to": "06:00", "price": 1}]},
            400,
            'field "bands[0].from" must be a time of the day such as 22:00, or 24:00 for its end',
        ),
        (
            {"bands": [{"name": "n", "from": "22:00", "to": "24:01", "price": 1}]},
            400,
            'field "bands[0].to" must be a time of the day such as 22:00, or 24:00 for its end',
        ),
        (
            {"bands": [{"name": "n", "from": "22:00", "to": "24:00", "price": 1}]},
            400,
            'field "bands" is for tidePerHour alone',
        ),
        (
            {"bands": [{"name": "n", "days": [], "from": "22:00", "to": "24:00", "price": 1}]},
            400,
            'field "bands[0].days" may not be empty',
        ),
    ],
)
async def test_prices_that_are_none(
    api: Served, town: Town, change: dict[str, Any], status: int, message: str
) -> None:
    answer = await operate(api, "price", PRICE | change)
    assert (answer.status_code, answer.json()["message"]) == (status, message)


async def test_the_users_with_what_they_own(api: Served, town: Town) -> None:
    await api.launch()
    await done(api, "voucher", username="alice", amount=2, id="v")
    await done(api, "monthlyCredit", username="alice", amount=5)
    found = await done(api, "users", **PAGE)
    assert [each["username"] for each in found["users"]] == ["alice", "bob"]
    assert found["users"][0] == {
        "userId": api.stocked.alice.id,
        "username": "alice",
        "isAdmin": False,
        "createdAt": "2026-03-01T12:00:00Z",
        "balance": MONEY // 10**6,
        "availableBalance": MONEY / 10**6 - 1.5,
        "availableVoucherAmount": 2,
        "availableCreditAmount": 0,
        "held": 1.5,
        "monthlyCredit": 5,
    }
    assert found["pager"]["totalEntries"] == 2
    for chosen, names in (
        ({"username": "LI"}, ["alice"]),
        ({"username": "%"}, []),
        ({"since": "2026-03-01T12:00:01Z"}, []),
        ({"until": "2026-03-01T12:00:01Z"}, ["alice", "bob"]),
    ):
        rows = (await done(api, "users", **PAGE, filter=chosen))["users"]
        assert [each["username"] for each in rows] == names
    second = await done(api, "users", pager={"currentPage": 2, "pageSize": 1})
    assert [each["username"] for each in second["users"]] == ["bob"]
