"""A life by the command: show, events, logs, stop, start, restart, rm, as processes against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Machine
from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until


@pytest.fixture(scope="module")
def renter(simulated: Server) -> Tenant:
    return simulated.add_tenant("renter")


@pytest.fixture
def at_home(machine: Machine, simulated: Server, renter: Tenant) -> Machine:
    machine.environ = {"TIDEMILL_URL": simulated.url, "TIDEMILL_TOKEN": renter.token, "TZ": "UTC"}
    return machine


@pytest.fixture
def train(simulated: Server, renter: Tenant) -> Iterator[str]:
    """The id of an instance that runs and is called ``train``."""
    image = renter.post("/api/resource/image/list")["images"][0]["imageName"]
    made = renter.launch(name="train", image=image, nodePorts=[8080])
    renter.wait(made, "Running")
    yield made
    simulated.terminate_all(renter)


def test_show_says_how_to_enter_and_what_it_costs(at_home: Machine, renter: Tenant, train: str) -> None:
    shown = dict(line.split("  ", 1) for line in at_home.answer("show", "train").splitlines())
    facts = {name.strip(): text.strip() for name, text in shown.items()}
    assert (facts["name"], facts["id"], facts["status"]) == ("train", train, "Running")
    spec = renter.get(train)["instanceSpecInfo"]
    ports = {each["port"]: each["nodePort"] for each in spec["nodePorts"]}
    assert facts["ssh"] == f"ssh -p {ports[22]} root@{spec['regionInfo']['sshAddress']}"
    assert facts["ports"] == f"8080 at {spec['regionInfo']['sshAddress']}:{ports[8080]}"
    assert facts["price"] == "1.50 EUR/h"
    assert facts["cost"].endswith(" EUR")
    assert json.loads(at_home.answer("show", train[:17], "-o", "json")) == renter.get(train)
    unknown = at_home.tidemill("show", "nothing")
    assert (unknown.returncode, "there is train" in unknown.stderr) == (4, True)
    assert at_home.tidemill("show").returncode == 2


def test_events_so_far_and_as_they_come(at_home: Machine, renter: Tenant, train: str) -> None:
    rows = json.loads(at_home.answer("events", "train", "-o", "json"))
    assert rows == renter.events(train)
    lines = at_home.answer("events", "train").splitlines()
    assert lines[0].split() == ["AT", "EVENT", "FROM", "TO", "REASON", "MESSAGE"]
    assert len(lines) == len(rows) + 1
    followed = at_home.home / "followed"
    with followed.open("wb") as file:
        following = subprocess.Popen(
            [str(Path(sys.executable).with_name("tidemill")), "events", "train", "-f", "-o", "json"],
            stdout=file,
            env=os.environ | at_home.environ | {"HOME": str(at_home.home)},
        )

    def told() -> list[dict[str, Any]]:
        return [json.loads(line) for line in followed.read_text().splitlines()]

    try:
        until("it is told what was", lambda: len(told()) >= len(rows), 60)
        renter.do("stop", train)
        until("it is told of the end", lambda: told()[-1]["to"] == "Stopped", 60)
    finally:
        following.kill()
        following.wait()
    assert [each["seq"] for each in told()] == [each["seq"] for each in renter.events(train)]
    assert told()[-1]["instanceName"] == "train"


def test_logs_are_printed_as_they_are(at_home: Machine, renter: Tenant, train: str) -> None:
    assert at_home.answer("logs", "train") == renter.logs(train)
    assert at_home.answer("logs", "train", "--tail", "0") == ""


def test_stop_start_restart_and_rm(at_home: Machine, renter: Tenant, train: str) -> None:
    done = at_home.tidemill("stop", "train", "--wait")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "train: stopping\ntrain: stopped\n"
    quoted = at_home.answer("start", "train", "--dry-run")
    assert quoted.startswith("train: 1.50 EUR per hour now; ")
    assert renter.status(train) == "Stopped"
    assert at_home.tidemill("start", "train", "--wait").stderr == "train: starting\ntrain: running\n"
    assert at_home.tidemill("restart", "train", "--wait").returncode == 0
    asked = at_home.tidemill("rm", "train")
    assert (asked.returncode, "--yes" in asked.stderr) == (2, True)
    assert renter.status(train) == "Running"
    ended = at_home.tidemill("rm", "-y", "train", train)  # the same one by two names is one
    assert (ended.returncode, ended.stderr) == (0, "train: ending\n")
    until("it has ended", lambda: at_home.answer("ls", "-o", "name") == "")
    again = at_home.tidemill("stop", train)
    assert (again.returncode, "instance not found" in again.stderr) == (4, True)


def test_a_name_that_is_none_is_found_before_anything_is_done(
    at_home: Machine, renter: Tenant, train: str
) -> None:
    done = at_home.tidemill("stop", "train", "nobody")
    assert (done.returncode, "nobody" in done.stderr) == (4, True)
    assert renter.status(train) == "Running"


def test_outside_of_an_instance_there_is_no_self(at_home: Machine) -> None:
    done = at_home.tidemill("stop", "--self")
    assert (done.returncode, "This is no instance" in done.stderr) == (3, True)
