"""schemathesis against the document a real server serves: no 5xx, nothing that is not documented."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
START_SECONDS = 120
# Everything on one of the databases; on the other what is drawn at random.
PHASES = {"token": "fuzzing", "cookie": "examples,coverage,fuzzing,stateful"}


@dataclass(frozen=True)
class Running:
    url: str
    token: str
    log: Path


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Running]:
    """A server process of its own, with the simulated driver, on the database of the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder, log = tmp_path / "data", tmp_path / "log"
    environment = os.environ | {
        "TIDEMILL_DATABASE_URL": database_url,
        "TIDEMILL_DRIVER": "simulated",
        "TIDEMILL_SIMULATED_PULL_SECONDS": "0",
        "TIDEMILL_SIMULATED_START_SECONDS": "0",
        "TIDEMILL_SIMULATED_STOP_SECONDS": "0",
    }
    tidemill = (sys.executable, "-m", "tidemill")
    subprocess.run([*tidemill, "init", "--data-dir", folder], env=environment, check=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*tidemill, "serve", "--data-dir", folder, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        login = json.loads((folder / "first-login.json").read_text("utf-8"))[1]
        sent = {"username": login["username"], "password": login["password"]}
        answer = httpx.post(f"{url}/api/user/login", json=sent, timeout=30)
        yield Running(url, answer.json()["accessToken"], log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("way", "database_url"), [("token", "sqlite"), ("cookie", "postgresql")], indirect=["database_url"]
)
def test_schemathesis_finds_nothing(server: Running, way: str, tmp_path: Path) -> None:
    headers = {
        "token": f"Authorization: Bearer {server.token}",
        "cookie": f"Cookie: AccessToken={server.token}",
    }
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/api/openapi.json"),
            *("--header", headers[way], "--checks", ",".join(CHECKS), "--exclude-path", "/api/user/logout"),
            *("--exclude-path", "/api/events"),  # has no end: tests/api/test_events.py
            *(
                "--phases",
                PHASES[way],
                "--max-examples",
                "10",
                "--seed",
                "1",
                "--request-timeout",
                "30",
                "--no-color",
            ),
            *("--generation-database", "none"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert "43 passed" in found.stdout, found.stdout[-1500:]
    log = server.log.read_text("utf-8")
    assert "request failed" not in log
    assert server.token not in log
