"""The shell functions that keep processes: what they start holds nothing, what they stop is theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.journeys.waiting import until

REPO = Path(__file__).resolve().parents[2]
LIB = REPO / "scripts" / "lib"


def bash(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}", "bash", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "REPO": str(REPO), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody may touch."""
    program = "import time; print('here', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"  # before that it may still bear our name
    yield process
    process.kill()
    process.communicate()


def held_by(pid: int) -> set[str]:
    held: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a program that starts opens and closes its libraries
            held.add(os.readlink(entry))
    return held


def test_a_daemon_holds_neither_pipe_nor_descriptor_nor_session(tmp_path: Path) -> None:
    began = time.monotonic()
    ran = bash(
        f"source {LIB}/report.sh; exec 7>{tmp_path}/held\n"
        f"detached {tmp_path}/log sleep 600; echo $DETACHED_PID"
    )
    pid = int(ran.stdout)
    try:
        # capture_output reads to the end of the pipes: a daemon that held one would keep us here.
        assert time.monotonic() - began < 30
        assert ran.returncode == 0, ran.stderr
        until("it is the program", lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        own = {"/dev/null", str(tmp_path / "log")}
        until("it holds its own files only", lambda: held_by(pid) == own)
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_failing_command_shows_the_end_of_its_own_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of an earlier command\n")
    ran = bash(f"LOG={log}; source {LIB}/report.sh; quietly sh -c 'echo the reason; exit 3'")
    assert ran.returncode == 3
    assert "the reason" in ran.stderr
    assert "earlier" not in ran.stderr
    assert ran.stdout == ""


def test_a_pid_file_of_another_process_is_not_a_running_server(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    (tmp_path / "server.pid").write_text(f"{bystander.pid} 1 0.0.0.0 8420\n")
    ran = bash(
        f"for p in report packages python server; do source {LIB}/$p.sh; done; server_stop",
        DATA_DIR=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    assert "does not run" in ran.stderr
    assert bystander.poll() is None


def test_a_server_is_stopped_by_its_pid_and_start_time(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    started = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(") ")[2].split()[19]
    (tmp_path / "server.pid").write_text(f"{bystander.pid} {started} 0.0.0.0 8420\n")
    ran = bash(
        f"for p in report packages python server; do source {LIB}/$p.sh; done; server_stop",
        DATA_DIR=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    assert "stopped" in ran.stderr
    assert bystander.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("content", ["", "\n", "12\n", "not a pid at all\n"])
def test_a_damaged_pid_file_is_no_running_server(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.pid").write_text(content)
    ran = bash(
        f"for p in report packages python server; do source {LIB}/$p.sh; done; server_stop",
        DATA_DIR=str(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    assert "does not run" in ran.stderr


def test_an_engine_pid_file_is_removed_unless_an_engine_has_that_pid(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    gone, recycled, alive = tmp_path / "gone", tmp_path / "recycled", tmp_path / "alive"
    gone.write_text("4194304000")
    recycled.write_text(str(bystander.pid))
    alive.write_text(str(bystander.pid))
    name = Path(f"/proc/{bystander.pid}/comm").read_text().strip()
    ran = bash(
        f"for p in report packages python engine; do source {LIB}/$p.sh; done\n"
        f'_engine_forget {gone} dockerd; _engine_forget {recycled} dockerd; _engine_forget {alive} "{name}"\n'
        f"_engine_forget {tmp_path}/never dockerd"
    )
    assert ran.returncode == 0, ran.stderr
    assert (gone.exists(), recycled.exists(), alive.exists()) == (False, False, True)
