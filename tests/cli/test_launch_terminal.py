"""``tidemill launch`` at a terminal: questions, progress, Ctrl-C."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from tests.cli.conftest import Machine
from tests.cli.test_launch import QUICK, made, named, status
from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until

SECONDS = 60
INTERRUPT = "\x03"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = made(tmp_path_factory.mktemp("terminal"), simulated_pull_seconds=4)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


@pytest.fixture
def terminal(machine: Machine, server: Server, user: Tenant) -> Iterator[list[pexpect.spawn]]:
    """Commands that were begun here end with the test."""
    machine.environ = {"TIDEMILL_URL": server.url, "TIDEMILL_TOKEN": user.token, "TERM": "xterm"}
    begun: list[pexpect.spawn] = []
    yield begun
    for each in begun:
        each.close(force=True)


def begin(terminal: list[pexpect.spawn], machine: Machine, *words: str) -> pexpect.spawn:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMILL_")}
    child = pexpect.spawn(
        str(Path(sys.executable).with_name("tidemill")),
        ["launch", *words],
        env={**environ, "HOME": str(machine.home), **machine.environ},
        dimensions=(50, 140),
        encoding="utf-8",
        timeout=SECONDS,
    )
    terminal.append(child)
    return child


def ended(child: pexpect.spawn) -> tuple[str, int]:
    """What it still shows, without colours, and its exit code."""
    child.expect(pexpect.EOF)
    child.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", child.before or ""), child.exitstatus


def test_questions_lead_to_an_instance(terminal: list[pexpect.spawn], machine: Machine, user: Tenant) -> None:
    child = begin(terminal, machine, "asked")
    child.expect("TYPE.+GPU.+CPU")
    child.expect("small +- +0.5 +0.25 GB +local +1.50 +0.90 +100.00 +.*InStock")
    child.expect(r"Type, by number or name \[1\]: ")
    child.sendline("9")
    child.expect("Say a number from 1 to 3")
    child.sendline("smal")  # on demand, or as spot
    child.expect(r"Which one, by number \[1\]: ")
    child.sendline("")
    child.expect(r"tide +0.90 EUR per hour")
    child.expect(r"Charged by \[hour\]: ")
    child.sendline("tide")
    child.expect("PyTorch")
    child.expect(r"Image, by number or name \[1\]: ")
    child.sendline("torch")
    child.expect("launch +asked: small .0.5 cores, 0.25 GB. with PyTorch in local")
    child.expect("now +0.90 EUR/h")
    child.expect("next +none within 2d")
    child.expect(r"Launch it\? \[y/N\] ")
    child.sendline("y")
    child.expect("Pulling the image")
    child.expect(r"\d+%")
    shown, code = ended(child)
    assert code == 0, shown
    (row,) = named(user, "asked")
    port = row["instanceSpecInfo"]["nodePorts"][0]["nodePort"]
    assert f"ssh -p {port} root@127.0.0.1\r\nOr: tidemill ssh asked\r\n" in shown
    assert "✓ Pulling the image" in shown
    assert row["instanceSpecInfo"]["billing"]["chargeMode"] == "tidePerHour"
    assert row["instanceMetadata"]["imageName"] == "PyTorch"


@pytest.mark.parametrize("answer", ["", "n", "maybe", "\x04"])
def test_anything_but_yes_launches_nothing(
    terminal: list[pexpect.spawn], machine: Machine, user: Tenant, answer: str
) -> None:
    child = begin(terminal, machine, "never", *QUICK)
    child.expect(r"Launch it\? \[y/N\] ")
    child.send(answer if answer == "\x04" else f"{answer}\r")
    shown, code = ended(child)
    assert (code, "Nothing was launched" in shown) == (1, True), shown
    assert named(user, "never") == []


def test_ctrl_c_at_a_question_launches_nothing(
    terminal: list[pexpect.spawn], machine: Machine, user: Tenant
) -> None:
    child = begin(terminal, machine, "never")
    child.expect("Type, by number or name")
    child.send(INTERRUPT)
    assert ended(child)[1] == 130
    assert named(user, "never") == []


@pytest.mark.parametrize(
    ("name", "answer", "goes_on"), [("on", "\r", True), ("said", "y\r", False), ("twice", INTERRUPT, False)]
)
def test_ctrl_c_leaves_the_launch_or_ends_it(
    terminal: list[pexpect.spawn], machine: Machine, user: Tenant, name: str, answer: str, goes_on: bool
) -> None:
    child = begin(terminal, machine, name, *QUICK, "-y")
    child.expect("Pulling the image")
    child.send(INTERRUPT)
    child.expect(rf"The launch of {name} goes on. Cancel it\? \[y/N\] ")
    child.send(answer)
    shown, code = ended(child)
    assert code == 130, shown
    if goes_on:
        assert f"The launch of {name} goes on by itself. Cancel it with: tidemill rm {name}" in shown
        until("it runs", lambda: status(user, name) == "Running", SECONDS)
    else:
        assert f"{name} is cancelled" in shown
        until("it is gone", lambda: status(user, name) == "Released", SECONDS)
