"""Money by the command: what the owner sees, and what the operator does."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from tests.cli.conftest import Machine
from tests.journeys.running import Server, Tenant


@pytest.fixture(scope="module")
def payer(simulated: Server) -> Tenant:
    return simulated.add_tenant("payer")


@pytest.fixture
def at_home(machine: Machine, simulated: Server, payer: Tenant) -> Machine:
    machine.environ = {"TIDEMILL_URL": simulated.url, "TIDEMILL_TOKEN": payer.token, "TZ": "UTC"}
    return machine


@pytest.fixture
def operator(simulated: Server, at_home: Machine) -> Machine:
    token = simulated.first_login("admin").token
    return Machine(at_home.home, at_home.environ | {"TIDEMILL_TOKEN": token})


def test_what_is_paid_in_is_owned_and_on_the_statement(at_home: Machine, operator: Machine) -> None:
    before = Decimal(at_home.answer("balance", "-o", "name").strip())
    paid = operator.answer("admin", "credit", "payer", "12.345678", "--id", "i1", "--memo", "invoice 7")
    assert paid.splitlines()[0] == "amount  12.345678 EUR"
    again = json.loads(operator.answer("admin", "credit", "payer", "12.345678", "--id", "i1", "-o", "json"))
    assert again["transaction"]["memo"] == "invoice 7"
    assert Decimal(at_home.answer("balance", "-o", "name").strip()) == before + Decimal("12.345678")
    operator.answer("admin", "credit", "payer", "--id", "i2", "--", "-2")
    text = at_home.answer("statement", "-o", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert sum((Decimal(line["amount"] or 0) for line in lines), Decimal()) == Decimal(lines[-1]["owned"])
    shown = at_home.answer("statement").splitlines()
    assert shown[0] == "owned before  0.00 EUR"
    assert any("invoice 7" in line and "12.345678" in line for line in shown)
    assert shown[-1].endswith(f"{Decimal(lines[-1]['owned']):f} EUR")
    whole = json.loads(at_home.answer("statement", "-o", "json"))
    assert whole["closing"] == float(lines[-1]["owned"])
    kinds = json.loads(at_home.answer("ledger", "--kind", "payout", "-o", "json"))
    assert [each["amount"] for each in kinds] == [-2]
    assert at_home.tidemill("statement", "--since", "yesterday").returncode == 2
    assert "Nothing changed" in at_home.tidemill("statement", "--until", "2020-01-01").stderr


def test_vouchers_credit_and_caps(at_home: Machine, operator: Machine) -> None:
    operator.answer("admin", "voucher", "payer", "5", "--expires", "2099-01-01", "--name", "welcome")
    assert operator.tidemill("admin", "monthly-credit", "payer", "2.5").returncode == 0
    (row,) = json.loads(operator.answer("admin", "users", "payer", "-o", "json"))
    assert (row["availableVoucherAmount"], row["monthlyCredit"]) == (5, 2.5)
    assert at_home.answer("cap", "set", "month", "100").splitlines()[1].split() == [
        "account", "-", "month", "100.00",
    ]  # fmt: skip
    operator.answer("admin", "cap", "payer", "hour", "7")
    assert set(at_home.answer("cap", "list", "-o", "name").splitlines()) == {"operator hour", "account month"}
    assert at_home.answer("cap", "lift", "month", "-o", "name") == "operator hour\n"
    operator.answer("admin", "cap", "payer", "hour")
    assert "no cap" in at_home.tidemill("cap", "list").stderr
    assert at_home.tidemill("admin", "credit", "payer", "1").returncode == 4, "nothing here for others"
    wrong = operator.tidemill("admin", "credit", "payer", "much")
    assert (wrong.returncode, "no amount of money" in wrong.stderr) == (1, True)


def test_prices_of_the_operator(operator: Machine) -> None:
    made = json.loads(
        operator.answer("admin", "set-price", "perHour", "1.75", "--type", "small", "-o", "json")
    )
    assert made["price"] == 1.75
    newest = json.loads(operator.answer("admin", "prices", "--mode", "perHour", "-o", "json"))[0]
    assert newest == made
    assert operator.answer("admin", "prices").splitlines()[1].split()[2:4] == ["small", made_region(operator)]
    operator.answer("admin", "set-price", "perHour", "1.5", "--type", "small")
    unknown = operator.tidemill("admin", "set-price", "perHour", "1", "--type", "huge")
    assert (unknown.returncode, "There is no type 'huge'; there is: small" in unknown.stderr) == (4, True)


def made_region(operator: Machine) -> str:
    return operator.answer("region", "list", "-o", "name").strip()


def test_keys_for_programs(at_home: Machine, simulated: Server) -> None:
    key = at_home.answer("apikey", "create", "ci", "--scope", "read", "--days", "7", "-o", "name").strip()
    program = Machine(at_home.home, {"TIDEMILL_URL": simulated.url, "TIDEMILL_API_KEY": key})
    assert json.loads(program.answer("me", "-o", "json"))["scope"] == "read"
    listed = at_home.answer("apikey", "list")
    assert "in 7d" in listed or "in 6d" in listed
    assert key not in listed
    assert at_home.tidemill("apikey", "rm", "ci").stderr == "ci: deleted\n"
    assert program.tidemill("me").returncode == 3


def test_what_is_there(at_home: Machine) -> None:
    (image,) = json.loads(at_home.answer("image", "list", "-o", "json"))
    assert at_home.answer("image", "list", "-o", "name") == f"{image['imageName']}\n"
    assert "No instance" in at_home.tidemill("top", "--once").stderr
    assert "Nothing ran" in at_home.tidemill("usage").stderr
