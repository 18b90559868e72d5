"""The PostgreSQL that the tests start themselves: what it says when it cannot, and that it goes with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests import postgres
from tests.journeys.waiting import until


def test_without_its_programs_it_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "INSTALLED", Path("/nowhere"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(postgres.NoPostgres, match="run scripts/test, which installs them"):
        postgres.programs()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_goes_with_whoever_started_it(how: signal.Signals | None) -> None:
    """Also with one that is killed; at the end of its input it stops by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    url = make_url(process.stdout.readline().strip())
    folder = Path(str(url.query["host"]))
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, 0)
    if how is None:
        process.stdin.close()
    else:
        process.send_signal(how)
    process.wait(60)
    process.stdout.close()
    until("it is gone", lambda: not _runs(pid), 60)
    assert folder.exists() == (how is not None)
    shutil.rmtree(folder, ignore_errors=True)


def test_what_somebody_left_long_ago_is_removed(tmp_path: Path) -> None:
    folders = [tmp_path / f"{postgres.PREFIX}{name}" for name in ("mine", "old", "running", "young", "x")]
    for folder in folders:
        (folder / "data").mkdir(parents=True)
        (folder / "log").write_text("")
    mine, old, running, young, _ = folders
    (running / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    (old / "data" / "postmaster.pid").write_text("999999999\n")
    then = mine.stat().st_mtime - 2 * postgres.OLD_SECONDS
    for folder in set(folders) - {mine, young}:
        for path in (folder / "log", folder):
            os.utime(path, (then, then))
    postgres._sweep(mine)
    assert {folder for folder in folders if folder.exists()} == {mine, running, young}


def _runs(pid: int) -> bool:
    """Whether it does; a process that nobody asked for its end counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
