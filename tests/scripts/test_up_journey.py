"""scripts/up as a new user meets it: a fresh clone, one command, and what it prints is typed as it is."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.journeys.leftovers import Leftovers, left_by
from tests.journeys.running import docker, environment, free_port, free_ports
from tests.journeys.waiting import until

REPO = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600, check=False, **options
    )


@dataclass
class Cloud:
    """A clone, its data folder, and what the first run printed."""

    clone: Path
    data_dir: Path
    port: int = field(default_factory=free_port)
    node_ports: tuple[int, int] = field(default_factory=lambda: free_ports(100))
    deployment: str = field(default_factory=lambda: f"journey-{secrets.token_hex(4)}")
    printed: str = ""

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        settings = environment() | {
            "TIDEMILL_NODE_PORTS": f"{self.node_ports[0]}-{self.node_ports[1]}",
            "TIDEMILL_TENANT_NETWORKS": "10.251.0.0/16",
            "TIDEMILL_DEPLOYMENT": self.deployment,
        }
        return run(
            self.clone / "scripts" / "up",
            "--data-dir",
            str(self.data_dir),
            *arguments,
            env=settings,
            cwd="/",
        )

    def start(self) -> subprocess.CompletedProcess[str]:
        return self.up("--address", "127.0.0.1", "--port", str(self.port))

    def server(self) -> int:
        return int((self.data_dir / "server.pid").read_text().split()[0])

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        token = (self.data_dir / "first" / "token").read_text()
        return httpx.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
            trust_env=False,
        )

    def instance(self) -> str:
        return json.loads((self.data_dir / "first" / "launch").read_text())["id"]

    def leftovers(self) -> Leftovers:
        low, high = self.node_ports
        return left_by(self.deployment, self.data_dir, set(range(low, high + 1)))

    def line(self, command: str) -> str:
        """The command that was printed, with its continuation lines."""
        found = re.search(rf"^{command} (?:.*\\\n)*.*$", self.printed, re.MULTILINE)
        assert found, self.printed
        return found.group()


@pytest.fixture(scope="module")
def cloud(base_image: str) -> Iterator[Cloud]:
    top = Path(tempfile.mkdtemp(prefix="tidemill-journey-"))
    clone = top / "clone"
    for name in run("git", "-C", REPO, "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0"):
        if name and (REPO / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, clone / name)
    made = Cloud(clone, top / "data")
    try:
        first = made.start()
        assert first.returncode == 0, first.stderr + log_of(made.data_dir)
        made.printed = first.stdout
        yield made
    finally:
        made.up("--stop")
        made.leftovers().remove()
        shutil.rmtree(top)


def log_of(data_dir: Path) -> str:
    return "".join(
        f"\n--- {name}\n{(data_dir / name).read_text()[-4000:]}"
        for name in ("up.log", "server.log")
        if (data_dir / name).exists()
    )


def containers(cloud: Cloud) -> list[str]:
    """The engine's ids of this deployment's containers: another id is another container."""
    label = f"label=tidemill.deployment={cloud.deployment}"
    return docker("ps", "--all", "--no-trunc", "--filter", label, "--format", "{{.ID}}").split()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_it_says_all_that_is_needed(cloud: Cloud) -> None:
    assert f"http://127.0.0.1:{cloud.port}" in cloud.printed
    logins = json.loads((cloud.data_dir / "first-login.json").read_text())
    assert {login["is_admin"] for login in logins} == {True, False}
    for login in logins:
        assert login["username"] in cloud.printed
        answer = httpx.post(
            f"http://127.0.0.1:{cloud.port}/api/user/login",
            json={name: login[name] for name in ("username", "password")},
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        assert login["password"] in cloud.printed


def test_secrets_lie_in_private_files_and_in_no_log(cloud: Cloud) -> None:
    for path in (*(cloud.data_dir / "first").iterdir(), cloud.data_dir / "first-login.json"):
        if path.suffix != ".pub":
            assert path.stat().st_mode & 0o077 == 0, path
    assert cloud.data_dir.stat().st_mode & 0o077 == 0
    logs = (cloud.data_dir / "up.log").read_text() + (cloud.data_dir / "server.log").read_text()
    private = [login["password"] for login in json.loads((cloud.data_dir / "first-login.json").read_text())]
    for secret in (*private, (cloud.data_dir / "first" / "token").read_text()):
        assert secret not in logs


def test_the_curl_line_lists_the_instance(cloud: Cloud) -> None:
    ran = run("bash", "-c", cloud.line("curl"))
    assert ran.returncode == 0, ran.stderr
    listed = json.loads(ran.stdout)
    assert listed["pager"]["totalEntries"] == 1
    assert listed["instances"][0]["instanceRuntimeInfo"]["status"] == "Running"


def test_the_ssh_line_enters_the_instance(cloud: Cloud) -> None:
    ran = subprocess.run(
        ["bash", "-c", cloud.line("ssh")],
        input="id -un; cat /etc/debian_version\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-2] == "root"
    assert "authenticity" not in ran.stderr
    assert "WARNING" not in ran.stderr


def test_again_it_changes_nothing_and_prints_the_same(cloud: Cloud) -> None:
    server, made = cloud.server(), containers(cloud)
    kept = {
        path: path.stat().st_mtime_ns
        for path in cloud.data_dir.rglob("*")
        if path.is_file() and not path.is_relative_to(cloud.data_dir / "instances")
        if path.suffix not in {".log", ".lock"} and not path.name.startswith("tidemill.db")
    }
    again = cloud.start()
    assert again.returncode == 0, again.stderr
    assert again.stdout == cloud.printed
    assert cloud.server() == server
    assert containers(cloud) == made
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_without_options_it_finds_the_server_that_runs(cloud: Cloud) -> None:
    again = cloud.up()
    assert again.returncode == 0, again.stderr
    assert again.stdout == cloud.printed


def test_another_port_for_a_server_that_runs_is_refused(cloud: Cloud) -> None:
    refused = cloud.up("--port", str(cloud.port + 1))
    assert refused.returncode == 1
    assert "--stop" in refused.stderr


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_server_that_ended_is_started_again_and_the_instance_never_stopped(cloud: Cloud, end: str) -> None:
    server, made = cloud.server(), containers(cloud)
    if end == "stopped":
        assert cloud.up("--stop").returncode == 0
    else:
        os.kill(server, signal.SIGKILL)
    until("the server has ended", lambda: not alive(server))
    again = cloud.start()
    assert again.returncode == 0, again.stderr + log_of(cloud.data_dir)
    assert again.stdout == cloud.printed
    assert cloud.server() != server
    assert containers(cloud) == made


def test_a_stopped_instance_is_started_again(cloud: Cloud) -> None:
    asked = cloud.call("POST", "/api/instance/stop", {"instanceId": cloud.instance()})
    assert asked.status_code == 200, asked.text
    again = cloud.start()
    assert again.returncode == 0, again.stderr + log_of(cloud.data_dir)
    assert again.stdout == cloud.printed
    assert run("bash", "-c", f"{cloud.line('ssh')} true").returncode == 0


def test_terminated_and_stopped_it_leaves_nothing(cloud: Cloud) -> None:
    asked = cloud.call("POST", "/api/instance/terminate", {"instanceId": cloud.instance()})
    assert asked.status_code == 200, asked.text
    until("nothing of it is left", lambda: not cloud.leftovers(), 60)
    server = cloud.server()
    assert cloud.up("--stop").returncode == 0
    assert not alive(server)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", cloud.port)) != 0
