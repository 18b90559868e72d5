"""``tidemill launch`` and ``price`` as processes against a real server with simulated nodes; no terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Machine
from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until

PRICES = {"perHour": 1.5, "tidePerHour": 0.9, "perWeek": 100}
TYPES = [
    {"name": "small", "cpu": 0.5, "memoryGB": 0.25, "spot": True, "spotPrices.perHour": 0.5, **PRICES},
    {"name": "wide", "cpu": 1, "memoryGB": 2000, "perHour": 2},
]
IMAGES = [
    {"name": "Debian 12", "reference": "tidemill/debian:12"},
    {"name": "PyTorch", "reference": "tidemill/pytorch:1"},
]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE a comment"


def made(folder: Path, **settings: Any) -> Server:
    paces = {"simulated_pull_seconds": 1.5, "simulated_start_seconds": 0.5, "simulated_stop_seconds": 0.1}
    return Server(
        folder / "data",
        settings={"driver": "simulated", "currency": "EUR", **paces, **settings},
        tables={"type": TYPES, "image": IMAGES},
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Pulls take long enough to be seen and interrupted."""
    server = made(tmp_path_factory.mktemp("launch"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


@pytest.fixture
def here(machine: Machine, server: Server, user: Tenant) -> Machine:
    machine.environ = {"TIDEMILL_URL": server.url, "TIDEMILL_TOKEN": user.token, "TZ": "UTC"}
    return machine


def named(user: Tenant, name: str) -> list[dict[str, Any]]:
    body = {"pager": {"currentPage": 1, "pageSize": 200}, "filter": {"name": name, "includeReleased": True}}
    return user.post("/api/instance/list", body)["instances"]


def status(user: Tenant, name: str) -> str:
    (row,) = named(user, name)
    return row["instanceRuntimeInfo"]["status"]


QUICK = ("-t", "small", "-i", "debian")


def test_by_flags_to_the_ssh_line(here: Machine, user: Tenant) -> None:
    done = here.tidemill("launch", "flags", *QUICK, "-p", "8080", "--disk", "2", "--stop-after", "2h", "-y")
    assert done.returncode == 0, done.stderr
    (row,) = named(user, "flags")
    spec = row["instanceSpecInfo"]
    port = spec["nodePorts"][0]["nodePort"]
    assert done.stdout == f"ssh -p {port} root@127.0.0.1\n"
    assert [each["port"] for each in spec["nodePorts"]] == [22, 8080]
    assert spec["instanceConfiguration"]["extraDataDiskSizeDB"] == 2
    assert row["instanceRuntimeInfo"]["status"] == "Running"
    told = done.stderr.splitlines()
    assert told[0] == "launch  flags: small (0.5 cores, 0.25 GB) with Debian 12 in local"
    assert told[1] == "now     1.50 EUR/h"
    assert any(re.fullmatch(r"held    1\.\d+ EUR of [\d.]+ EUR; [\d.]+ EUR stay", line) for line in told)
    assert "There is no ssh key in this account" in done.stderr
    assert re.search(r"^flags: Pulling the image \d+%$", done.stderr, re.MULTILINE)
    assert told[-2:] == ["flags: Running", "Or: tidemill ssh flags"]


def test_every_flag_is_a_field_of_the_body(here: Machine, user: Tenant) -> None:
    key = user.add_key(KEY, "laptop")
    here.environ |= {"TOKEN": "it's secret"}
    (here.home / "init.sh").write_text("echo 'hello'\n")
    line = here.answer(
        *("launch", "all", "-t", "SMALL", "-i", "pyt", "--region", "local", "-m", "week", "--duration", "2"),
        *("-p", "80", "-p", "90", "--disk", "3", "--init", str(here.home / "init.sh"), "-e", "TOKEN"),
        *(
            "-e",
            "A=1=2",
            "-k",
            "laptop",
            "--max-spend",
            "300.5",
            "--stop-after",
            "90m",
            "--auto-renew",
            "--instance-key",
            "--curl",
        ),
    )
    body = json.loads(shlex.split(line)[-1])
    offer = user.offer(image="PyTorch")
    assert body == {
        "name": "all",
        **offer,
        "billing": {"chargeMode": "perWeek", "duration": 2},
        "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": 3,
            "enableCommonData": False,
            "enableDocker": False,
            "dockerStorageSize": 0,
            "initScript": "echo 'hello'\n",
        },
        "isSpotInstance": False,
        "nodePorts": [80, 90],
        "env": {"TOKEN": "it's secret", "A": "1=2"},
        "sshKeyIds": [key],
        "maxSpend": 300.5,
        "stopAfterSeconds": 5400,
        "autoRenew": True,
        "instanceKey": True,
    }
    assert named(user, "all") == []


def test_the_curl_line_launches_and_holds_no_token(here: Machine, user: Tenant) -> None:
    line = here.answer("launch", "curled", *QUICK, "--curl")
    assert user.token not in line
    done = subprocess.run(
        ["bash", "-c", line.rstrip() + " --silent --noproxy '*'"],
        capture_output=True, text=True, check=True, env=os.environ | {"TIDEMILL_TOKEN": user.token},
    )  # fmt: skip
    assert json.loads(done.stdout)["instanceId"].startswith("notebook-")
    assert len(named(user, "curled")) == 1
    del here.environ["TIDEMILL_TOKEN"]
    whole = json.dumps(user.request(name="keyed"))
    keyed = here.tidemill("launch", "-f", "-", "--curl", stdin=whole)
    assert keyed.returncode == 0, keyed.stderr  # nothing is asked of the server, so nobody is logged in
    assert '-H "X-API-Key: $TIDEMILL_API_KEY"' in keyed.stdout


@pytest.mark.parametrize("form", ["json", "yaml", "stdin"])
def test_a_whole_file_is_launched_unchanged(here: Machine, user: Tenant, form: str) -> None:
    body = user.request(name=f"from {form}", nodePorts=[7891], someNewField={"a": [1]})
    text = yaml.safe_dump(body) if form == "yaml" else json.dumps(body)
    file = here.home / f"body.{form}"
    file.write_text(text)
    words = ("-f", "-") if form == "stdin" else ("-f", str(file))
    done = here.tidemill("launch", *words, "-y", "-d", stdin=text if form == "stdin" else "")
    assert done.returncode == 0, done.stderr
    (row,) = named(user, f"from {form}")
    assert done.stdout.strip() == row["instanceMetadata"]["instanceId"]
    assert [each["port"] for each in row["instanceSpecInfo"]["nodePorts"]] == [22, 7891]


def test_a_file_of_some_fields_with_flags_for_the_rest(here: Machine, user: Tenant) -> None:
    (here.home / "some.yaml").write_text(
        "name: some\nbilling: {chargeMode: tidePerHour}\nnodePorts: [1234]\n"
    )
    done = here.tidemill("launch", "-f", str(here.home / "some.yaml"), *QUICK, "-y", "-d", "-o", "json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["instanceSpecInfo"]["billing"]["chargeMode"] == "tidePerHour"
    assert row["instanceMetadata"]["name"] == "some"
    assert 1234 in [each["port"] for each in row["instanceSpecInfo"]["nodePorts"]]
    assert re.search(r"^next +none within 2d$", done.stderr, re.MULTILINE)


def test_a_dry_run_prints_the_quote_and_does_nothing(here: Machine, user: Tenant) -> None:
    quote = json.loads(here.answer("launch", "dry", *QUICK, "--dry-run", "-m", "week", "-o", "json"))
    assert (quote["termTotal"], quote["priceNow"], quote["hold"]) == (100, None, 100)
    shown = here.answer("launch", "dry", *QUICK, "--dry-run", "--spot")
    assert "0.50 EUR/h" in shown
    body = json.dumps(user.request(name="dry") | {"dryRun": True})
    assert "1.50 EUR/h" in here.answer("launch", "-f", "-", stdin=body)
    assert named(user, "dry") == []


def test_the_init_script_is_waited_for(here: Machine, user: Tenant) -> None:
    done = here.tidemill(
        "launch", "scripted", *QUICK, "--init", "-", "-y", "-o", "name", stdin="echo hello\n"
    )
    assert (done.returncode, done.stdout) == (0, "scripted\n"), done.stderr
    told = [
        line.removeprefix("scripted: ") for line in done.stderr.splitlines() if line.startswith("scripted: ")
    ]
    assert told[-2:] == ["Init script", "Running"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "--type and --image must be said. What there is, show: tidemill price, tidemill image list"),
        (("-t", "small"), 2, "--image must be said"),
        (QUICK, 2, "Say --yes to launch without a question, or --dry-run"),
        (("-t", "smal", "-i", "fedora", "-y"), 4, "There is no image 'fedora'; there is: Debian 12, PyTorch"),
        (("-t", "h100", "-i", "debian", "-y"), 4, "There is no type 'h100'; there is: small, wide"),
        ((*QUICK, "-m", "year", "-y"), 2, "There are hour, tide, day, week, month"),
        ((*QUICK, "-m", "day", "-y"), 4, "not offered perDay, but"),
        ((*QUICK, "--stop-after", "90", "-y"), 2, "Write it as 90m"),
        ((*QUICK, "--max-spend", "much", "-y"), 2, "no amount of money"),
        ((*QUICK, "-e", "GONE_VARIABLE", "-y"), 2, "GONE_VARIABLE is not set here"),
        ((*QUICK, "-k", "nokey", "-y"), 4, "There is no ssh key 'nokey'"),
        ((*QUICK, "-m", "week", "--duration", "200", "-y"), 6, "20000"),
        (("-t", "wide", "-i", "debian", "-y"), 7, "wide"),
        ((*QUICK, "-f", "-", "--init", "-", "-y"), 2, "read once"),
        ((*QUICK, "-p", "0", "-y"), 1, "nodePorts"),
    ],
)
def test_what_is_refused(here: Machine, user: Tenant, words: tuple[str, ...], code: int, said: str) -> None:
    before = len(named(user, ""))
    done = here.tidemill("launch", *words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert len(named(user, "")) == before


def test_a_launch_that_fails_says_why(tmp_path: Path, machine: Machine) -> None:
    server = made(tmp_path, simulated_faults="refuses=1")
    try:
        user = server.start().first_login()
        machine.environ = {"TIDEMILL_URL": server.url, "TIDEMILL_TOKEN": user.token}
        done = machine.tidemill("launch", "bad", *QUICK, "-y")
        assert (done.returncode, done.stdout) == (1, "")
        assert re.search(
            r"tidemill: bad is InitializationFailed: .+ End it with: tidemill rm bad$", done.stderr.strip()
        )
    finally:
        server.close()


@pytest.mark.parametrize(
    ("ends", "with_signal"), [(False, signal.SIGINT), (True, signal.SIGINT), (True, signal.SIGTERM)]
)
def test_interrupted_without_a_terminal(
    here: Machine, user: Tenant, ends: bool, with_signal: signal.Signals
) -> None:
    name = f"int-{ends}-{with_signal.name}"
    words = ["launch", name, *QUICK, "-y", *(["--cancel-on-interrupt"] if ends else [])]
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMILL_")}
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("tidemill")), *words],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environ | {"HOME": str(here.home)} | here.environ,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith(f"{name}: "):
            assert line, "it ended before"
        process.send_signal(with_signal)
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), said
    if ends:
        assert said.endswith(f"{name} is cancelled\n")
        until("it is gone", lambda: status(user, name) == "Released", 30)
    else:
        assert said.endswith(f"The launch of {name} goes on by itself. Cancel it with: tidemill rm {name}\n")
        until("it runs", lambda: status(user, name) == "Running", 30)


def test_prices(here: Machine, user: Tenant) -> None:
    assert here.answer("price", "-o", "name").split() == ["small", "wide", "small"]
    assert here.answer("types") == here.answer("price")
    assert here.answer("price", "--no-spot").splitlines() == [
        "TYPE   GPU  CPU   MEMORY  REGION  EUR/h  EUR/h tide  EUR/week  STOCK",
        "small  -    0.5  0.25 GB  local    1.50        0.90    100.00  InStock",
        "wide   -      1  2000 GB  local    2.00           -         -  OutOfStock",
    ]
    (spot,) = json.loads(here.answer("price", "--spot", "-o", "json"))
    offer = user.offer()
    assert (spot["instanceTypeId"], spot["regionId"]) == (offer["instanceTypeId"], offer["region"])
    assert (spot["isSpotInstance"], spot["price"]) == (True, [{"chargeMode": "perHour", "price": 0.5}])
    told = here.answer("price", "small")
    assert re.search(r"^tide +0\.90 EUR/hour$", told, re.MULTILINE)
    assert re.search(r"^now +\S+ \d+ \S+ \d\d:\d\d +2d +0\.90  █+$", told, re.MULTILINE)
    asked = {"instanceTypeId": offer["instanceTypeId"], "region": offer["region"]}
    found = json.loads(here.answer("price", "small", "-o", "json"))
    assert found["price"] == user.post("/api/billing/price", asked)["price"]
    assert here.tidemill("price", "h100").returncode == 4
    assert here.tidemill("price", "--region", "moon").returncode == 4
