"""Whoever is in an instance when the money gets little is told so there, until it is paid in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.guest.instance import Terminal
from tests.journeys.running import Server
from tests.journeys.visiting import Person
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.databases("sqlite")]


def test_little_money_is_told_inside(
    shared_deployment: Callable[..., Server], guest: Path, person: Person
) -> None:
    server = shared_deployment(guest=guest, settings={"billing_beat": 1}).start()
    admin, user = server.first_login("admin"), server.first_login()
    user.add_key(person.public_line)
    id = user.launch()
    user.wait(id, "Running")
    visit = person.at(user, id)

    def told(file: str = "/run/tm/notices") -> str:
        return visit.ssh(f"cat {file} 2>/dev/null").stdout.decode()

    def pay(amount: float) -> None:
        admin.post("/api/admin/credit", {"username": user.username, "amount": amount, "id": str(amount)})

    assert told() == ""
    left = user.post("/api/balance")["availableBalance"]
    pay(2 - left)  # with the hour that is set aside two and a third
    line = until("it is told inside", told, 20)
    assert line.split(" ", 2)[1:] == [
        "money",
        "At the present rate the money lasts for less than 4 hours; then it is stopped\n",
    ]
    assert told("/.tidemill/instance/notices") == line
    with Terminal(visit.command("-tt")) as terminal:
        terminal.expect(r"\*\* At the present rate the money lasts for less than 4 hours")
    pay(100)
    until("it is told no longer", lambda: not told(), 20)
    assert told("/.tidemill/instance/notices") == ""
    with Terminal(visit.command("-tt")) as terminal:
        terminal.type("echo rea''dy; exit\r")
        greeting = terminal.expect(r"(?s).*ready")
        assert "money" not in greeting
    user.do("terminate", id)
    until("it is released", lambda: user.status(id) == "Released")
