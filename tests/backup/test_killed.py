"""Killed at any instant: before every call that touches a file or commits, by a process that ends there.

A restore leaves what was there or all of the backup; a backup has its name only once it is whole. What
was cut short is seen to by the next command, and never has to be cleaned up by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tests.backup.filled import Filled, contents, fill
from tests.backup.test_refusals import tree
from tests.backup.test_round_trip import bring_back
from tests.postgres import PostgresServer
from tests.stock import HandClock

from tidemill import staging
from tidemill.backup.restore import settle, verify
from tidemill.deployment import only_server

KILLED = 86
WATCHED = ("open", "mkdir", "rename", "unlink", "rmdir", "fsync", "link", "replace")


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do ``work`` in a process that ends before its so manieth touch; False when it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            _arm(number)
            work()
        except BaseException as error:  # the parent reads the exit code
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in {0, KILLED}, code
    return code == KILLED


def _arm(number: int) -> None:
    count = 0

    def touch() -> None:
        nonlocal count
        count += 1
        if count == number:
            os._exit(KILLED)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def touching(*arguments: Any, **options: Any) -> Any:
            touch()
            return function(*arguments, **options)

        return touching

    for name in WATCHED:
        setattr(os, name, before(getattr(os, name)))
    event.listen(Engine, "commit", lambda _: touch())
    event.listen(Engine, "close", lambda *_: touch())  # after a commit


def numbers() -> Iterator[int]:
    yield from range(1, 400)
    pytest.fail("it never comes to its end")


@dataclass
class Target:
    """Where to restore to, and what was there before."""

    folder: Path
    url: str
    rows: dict[str, Any] | None
    files: dict[str, bytes]

    def is_untouched(self) -> bool:
        found = {name: content for name, content in self._files().items() if name != "server.lock"}
        return found == self.files and self._rows() == self.rows

    def is_whole(self, source: Filled) -> bool:
        files = self._files()
        rows = self._rows()
        theirs = {name for name in tree(source.folder) if name.startswith("keys/")}
        return (
            rows is not None
            and rows["users"] != (self.rows or {}).get("users")
            and [row["id"] for row in rows["instances"]] == sorted(source.ids.values())
            and all(files.get(name) == (source.folder / name).read_bytes() for name in theirs)
            and "first-login.json" in files
            and not staging.is_pending(self.folder)
        )

    def _files(self) -> dict[str, bytes]:
        return {name: data for name, data in tree(self.folder).items() if not name.startswith("tidemill.db")}

    def _rows(self) -> dict[str, Any] | None:
        if self.url.startswith("sqlite") and not (self.folder / "tidemill.db").exists():
            return None
        try:
            return contents(self.url)
        except Exception as error:
            if "empty" not in str(error):
                raise
            return None


@pytest.fixture
def source(tmp_path: Path, sqlite_url: str, clock: HandClock) -> Filled:
    made = fill(tmp_path / "from", sqlite_url, clock)
    made.back_up(tmp_path / "backup")
    return made


@pytest.mark.parametrize("replace", [False, True])
def test_a_restore_into_sqlite(
    source: Filled, migrated_file: Path, tmp_path: Path, clock: HandClock, replace: bool
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(migrated_file, there / "tidemill.db")
    fill(there, f"sqlite:///{there / 'tidemill.db'}", HandClock())

    def prepare(folder: Path) -> str:
        if replace:
            shutil.copytree(there, folder)
        return f"sqlite:///{folder / 'tidemill.db'}"

    visit_every_point(source, tmp_path, clock, prepare, lambda url: None, replace=replace)


@pytest.mark.parametrize("replace", [False, True])
def test_a_restore_into_postgresql(
    source: Filled, postgres: PostgresServer, tmp_path: Path, clock: HandClock, replace: bool
) -> None:
    there = tmp_path / "there"
    filled_url = postgres.new_database()
    fill(there, filled_url, HandClock())

    def prepare(folder: Path) -> str:
        if not replace:
            return postgres.new_database(migrated=False)
        shutil.copytree(there, folder)
        return postgres.copy_of(filled_url)

    visit_every_point(source, tmp_path, clock, prepare, postgres.drop, replace=replace)


def visit_every_point(
    source: Filled,
    tmp_path: Path,
    clock: HandClock,
    prepare: Callable[[Path], str],
    drop: Callable[[str], None],
    *,
    replace: bool,
) -> None:
    outcomes: list[str] = []
    for number in numbers():
        folder = tmp_path / f"to-{number}"
        url = prepare(folder)
        target = Target(folder, url, None, {})
        target.rows, target.files = target._rows(), target._files() if folder.exists() else {}

        def work(folder: Path = folder, url: str = url) -> None:
            bring_back(tmp_path / "backup", folder, url, clock, replace=replace)

        was_killed = killed_at(number, work)
        if staging.is_pending(folder):
            killed_at(1 + number % 9, lambda folder=folder: settle(folder))  # killed again
        if staging.is_pending(folder):
            settle(folder)
        if was_killed and target.is_untouched():
            outcomes.append("nothing")
            if number % 10:
                shutil.rmtree(folder, ignore_errors=True)
                drop(url)
                continue
            work()  # now and then: nothing is in its way
        assert target.is_whole(source), (number, tree(folder).keys())
        if len(outcomes) < number:
            outcomes.append("whole")
        if replace:
            assert_old_is_aside(target)
        shutil.rmtree(folder)
        drop(url)
        if not was_killed:
            break
    assert outcomes == sorted(outcomes), "once it counts, it counts"
    assert {"nothing", "whole"} == set(outcomes)
    assert outcomes.count("whole") > 3, "some of the points come after the instant at which it counts"


def assert_old_is_aside(target: Target) -> None:
    (aside,) = target.folder.glob("replaced-*")
    kept = tree(aside)
    for name, content in target.files.items():
        if name != "tidemill.toml":  # the operator's own stays in force
            assert kept[name] == content, name
    if target.url.startswith("sqlite"):
        assert contents(f"sqlite:///{aside / 'tidemill.db'}") == target.rows
    else:
        schema = aside.name.replace("-", "_").lower()
        assert contents(f"{target.url}&options=-csearch_path%3D{schema}") == target.rows


def test_a_backup(source: Filled, tmp_path: Path) -> None:
    path = tmp_path / "again"
    for number in numbers():
        was_killed = killed_at(number, lambda: source.back_up(path))
        if path.exists():
            verify(path)
            path.unlink()
        else:
            assert was_killed
            source.back_up(path)  # what was left is in nobody's way
            verify(path)
            path.unlink()
        assert not path.with_name("again.partial").exists()
        if not was_killed:
            return


def test_an_answer_to_the_commit_that_is_lost(
    source: Filled,
    postgres: PostgresServer,
    tmp_path: Path,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL has committed, and the restore hears of a broken connection: it is asked, and it counts."""
    url = postgres.new_database(migrated=False)

    def lost(folder: Path) -> None:
        raise ConnectionError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "commit", lost)
        with pytest.raises(ConnectionError):
            bring_back(tmp_path / "backup", tmp_path / "to", url, clock)
    settle(tmp_path / "to")
    assert Target(tmp_path / "to", url, None, {}).is_whole(source)


def test_a_command_waits_for_nobody_and_sees_to_what_was_cut_short(
    source: Filled, tmp_path: Path, clock: HandClock
) -> None:
    """Any command that opens the folder does; a restore that is under way is not taken for a dead one."""
    folder = tmp_path / "to"
    url = f"sqlite:///{folder / 'tidemill.db'}"
    for number in numbers():
        shutil.rmtree(folder, ignore_errors=True)
        assert killed_at(number, lambda: bring_back(tmp_path / "backup", folder, url, clock))
        if (folder / staging.READY).exists():
            break
    words = [sys.executable, "-m", "tidemill", "backup", str(tmp_path / "again"), "--data-dir", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not staging.is_pending(folder)
    (folder / staging.MAKING).mkdir()
    with only_server(folder):
        done = subprocess.run(
            [*words[:4], str(tmp_path / "third"), *words[5:]], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "Another tidemill server" in done.stderr
    assert (folder / staging.MAKING).exists()
