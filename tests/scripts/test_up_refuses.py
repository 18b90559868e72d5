"""scripts/up before it does anything: what it says it will do, and when it will not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def up(
    folder: Path, *arguments: str, user: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "scripts" / "up", *arguments],
        cwd="/",
        user=user,
        group="nogroup" if user else None,
        extra_groups=[] if user else None,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy() -> Iterator[Path]:
    """The scripts in a folder where nobody may write everything."""
    folder = Path(tempfile.mkdtemp(prefix="tidemill-up-"))
    shutil.copytree(REPO / "scripts", folder / "scripts")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o755)
    yield folder
    shutil.rmtree(folder)


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): ((found := path.lstat()).st_mode, found.st_size, found.st_mtime_ns)
        for path in (folder, *folder.rglob("*"))
    }


def test_help_says_what_it_will_do() -> None:
    told = up(REPO, "--help")
    assert told.returncode == 0
    assert told.stderr == ""
    for word in ("docker.io", "guest", "admin", "curl", "ssh", "--data-dir", "--address", "--port", "--stop"):
        assert word in told.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_without_root_and_engine_it_says_what_to_do_and_changes_nothing(copy: Path) -> None:
    before = everything(copy)
    told = up(copy, user="nobody", DOCKER_HOST=f"unix://{copy}/no.sock")
    assert told.returncode == 1
    assert told.stdout == ""
    assert "sudo" in told.stderr
    assert "Nothing was changed." in told.stderr
    assert everything(copy) == before


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_an_engine_that_does_not_let_us_in_counts_as_none(copy: Path) -> None:
    socket = Path("/var/run/docker.sock")
    if not stat.S_ISSOCK(socket.stat().st_mode) or socket.stat().st_mode & 0o006:
        pytest.skip("the engine's socket is open to everybody here")
    before = everything(copy)
    told = up(copy, user="nobody")
    assert told.returncode == 1
    assert "usermod -aG docker" in told.stderr
    assert everything(copy) == before


@pytest.mark.parametrize("arguments", [["--colour"], ["--port"], ["--data-dir", ""]])
def test_an_option_it_does_not_know_is_refused(arguments: list[str]) -> None:
    told = up(REPO, *arguments)
    assert told.returncode == 1
    assert "--help" in told.stderr


def test_stop_where_nothing_runs_is_success(tmp_path: Path) -> None:
    told = up(REPO, "--stop", "--data-dir", str(tmp_path / "none"))
    assert told.returncode == 0, told.stderr
    assert not (tmp_path / "none").exists()
