"""What is no whole backup, and where something is already, is refused before anything is written."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.backup.filled import contents, fill
from tests.backup.test_round_trip import bring_back
from tests.postgres import PostgresServer
from tests.stock import HandClock

from tidemill.backup import archive
from tidemill.backup.restore import verify
from tidemill.backup.take import back_up, private_file
from tidemill.deployment import only_server
from tidemill.model.errors import Misconfigured, TidemillError
from tidemill.settings import Settings
from tidemill.store.database import Database


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> bytes:
    """A whole backup."""
    folder = tmp_path_factory.mktemp("good")
    url = f"sqlite:///{shutil.copy(migrated_file, folder)}"
    return fill(folder, url, HandClock()).archive()


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with what is in them."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def refused(content: bytes, folder: Path) -> str:
    file = folder / "backup"
    file.write_bytes(content)
    with pytest.raises(Misconfigured) as raised:
        verify(file)
    assert str(file) in raised.value.message
    return raised.value.message


def parts_of(content: bytes) -> dict[str, bytes]:
    return dict(archive.parts(io.BytesIO(content)))


def packed(parts: dict[str, bytes], **about: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in about.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def with_manifest(content: bytes, **changes: Any) -> bytes:
    parts = parts_of(content)
    parts[archive.MANIFEST] = json.dumps(json.loads(parts[archive.MANIFEST]) | changes).encode()
    return packed(parts)


def _unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_damage_passes_for_a_whole_backup(
    good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(10, len(good) - 1))  # before that is gzip's header, which says nothing
    damage = data.draw(st.sampled_from(["cut", "flip", "zero", "more"]))
    if damage == "cut":
        bad = good[:at]
    elif damage == "flip":
        bad = good[:at] + bytes([good[at] ^ (1 << data.draw(st.integers(0, 7)))]) + good[at + 1 :]
    elif damage == "zero":
        bad = good[:at] + bytes(len(good) - at)
    else:
        bad = good + data.draw(
            st.binary(min_size=1, max_size=64).filter(lambda more: bool(more.strip(b"\0")))
        )
    if bad == good or _unpacked(bad) == _unpacked(good):  # a bit of deflate's that says nothing
        return
    refused(bad, tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda good: b"", "cut short"),
        (lambda good: b"PGDMP not ours", "damaged"),
        (lambda good: with_manifest(good, format=2), "format 2"),
        (lambda good: with_manifest(good, revision="9999", version="9.0"), "newer than this one"),
        (lambda good: with_manifest(good, tables={}), "tables are not those"),
        (lambda good: with_manifest(good, parts=[]), "parts are not those"),
        (lambda good: with_manifest(good, made_at="yesterday"), "manifest cannot be read"),
        (lambda good: packed({archive.MANIFEST: b"[]"}), "manifest cannot be read"),
        (lambda good: packed(parts_of(good) | {"../keys/token-000009.pem": b"x"}), "no backup has"),
        (lambda good: packed({"/etc/passwd": b"x"} | parts_of(good)), "no backup has"),
        (lambda good: packed({"keys/token-000009.pem": b"x"} | parts_of(good)), "parts are not those"),
        (lambda good: packed(parts_of(good), type=tarfile.SYMTYPE, linkname="/etc/shadow"), "not a file"),
        (lambda good: packed(dict(reversed(parts_of(good).items()))), "no backup has"),
        (lambda good: packed({n: c for n, c in parts_of(good).items() if "users" not in n}), "parts are not"),
        (lambda good: good + gzip.compress(b"and more"), "something follows"),
    ],
)
def test_what_is_no_backup_of_ours_is_refused(
    good: bytes, tmp_path: Path, make: Callable[[bytes], bytes], why: str
) -> None:
    assert why in refused(make(good), tmp_path)


def test_nothing_is_written_for_a_backup_that_is_refused(
    good: bytes, tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "backup").write_bytes(good[:-20])
    with pytest.raises(Misconfigured, match="nothing was changed"):
        bring_back(tmp_path / "backup", tmp_path / "to", f"sqlite:///{tmp_path}/to/tidemill.db", clock)
    assert not (tmp_path / "to").exists()


def test_rows_that_the_other_database_cannot_hold_are_told_without_values(
    good: bytes, postgres: PostgresServer, tmp_path: Path, clock: HandClock
) -> None:
    """SQLite keeps a text of any length; the restore ends where PostgreSQL does not, and nothing is left."""
    folder = tmp_path / "from"
    url = f"sqlite:///{folder / 'tidemill.db'}"
    (tmp_path / "good").write_bytes(good)
    bring_back(tmp_path / "good", folder, url, clock)
    database = Database(url)
    secret = "s3cret" * 60
    database.run(
        lambda c: c.exec_driver_sql("UPDATE users SET username = ? WHERE username = 'bob'", (secret,))
    )
    database.close()
    settings = Settings(data_dir=folder)
    with private_file(tmp_path / "long") as file:
        back_up(settings, clock, None, file)
    target = postgres.new_database(migrated=False)
    with pytest.raises(Misconfigured, match="users of the backup does not fit") as raised:
        bring_back(tmp_path / "long", tmp_path / "to", target, clock)
    assert secret not in raised.value.message + raised.value.detail
    assert "too long" in raised.value.message
    assert set(tree(tmp_path / "to")) == {"server.lock"}
    bring_back(tmp_path / "good", tmp_path / "to", target, clock)  # the database is empty still


@pytest.mark.parametrize("there", ["tidemill.db", "keys/token-000001.pem", "first-login.json"])
def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(
    good: bytes, tmp_path: Path, clock: HandClock, there: str
) -> None:
    to = tmp_path / "to"
    (to / there).parent.mkdir(parents=True)
    (to / there).write_bytes(b"mine")
    (tmp_path / "backup").write_bytes(good)
    url = f"sqlite:///{to / 'tidemill.db'}"
    with pytest.raises(Misconfigured, match="--replace"):
        bring_back(tmp_path / "backup", to, url, clock)
    assert tree(to) == {there: b"mine", "server.lock": (to / "server.lock").read_bytes()}
    done = bring_back(tmp_path / "backup", to, url, clock, replace=True)
    (aside,) = done.aside
    assert (
        tree(Path(aside)) == {there: b"mine"}
        if "/" in there
        else (Path(aside) / there).read_bytes() == b"mine"
    )


def test_a_database_that_holds_something_is_refused_and_put_aside_when_asked(
    good: bytes, postgres_url: str, tmp_path: Path, clock: HandClock
) -> None:
    filled = fill(tmp_path / "there", postgres_url, clock)
    before = contents(postgres_url)
    (tmp_path / "backup").write_bytes(good)
    with pytest.raises(Misconfigured, match="The database holds something"):
        bring_back(tmp_path / "backup", tmp_path / "to", postgres_url, clock)
    assert contents(postgres_url) == before
    filled.stocked.database.close()
    done = bring_back(tmp_path / "backup", tmp_path / "to", postgres_url, clock, replace=True)
    assert contents(postgres_url) != before
    (aside,) = done.aside
    schema = next(word for word in aside.split() if word.startswith("replaced_"))
    assert contents(f"{postgres_url}&options=-csearch_path%3D{schema}") == before


def test_a_database_of_another_program_is_never_touched(
    good: bytes, postgres: PostgresServer, tmp_path: Path, clock: HandClock
) -> None:
    url = postgres.new_database(migrated=False)
    database = Database(url)
    database.run(lambda c: c.exec_driver_sql("CREATE TABLE theirs (id int)"))
    database.close()
    (tmp_path / "backup").write_bytes(good)
    with pytest.raises(Misconfigured, match="another program"):
        bring_back(tmp_path / "backup", tmp_path / "to", url, clock, replace=True)


def test_a_folder_or_database_that_a_server_uses_is_refused(
    good: bytes, postgres: PostgresServer, tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "backup").write_bytes(good)
    (tmp_path / "to").mkdir()
    with only_server(tmp_path / "to"), pytest.raises(Misconfigured, match="Another tidemill server"):
        bring_back(tmp_path / "backup", tmp_path / "to", f"sqlite:///{tmp_path}/to/tidemill.db", clock)
    url = postgres.new_database()
    server = Database(url)
    server.run(lambda c: c.exec_driver_sql("SELECT 1"))
    with pytest.raises(Misconfigured, match="stop every server"):
        bring_back(tmp_path / "backup", tmp_path / "other", url, clock, replace=True)
    server.close()


def test_a_deployment_of_another_label_is_not_put_where_the_setting_names_one(
    good: bytes, tmp_path: Path, clock: HandClock
) -> None:
    (tmp_path / "backup").write_bytes(good)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "tidemill.toml").write_text('deployment = "d2"\n')
    with pytest.raises(Misconfigured, match="'d1', the setting says 'd2'"):
        bring_back(tmp_path / "backup", tmp_path / "to", f"sqlite:///{tmp_path}/to/tidemill.db", clock)


def test_an_operators_own_settings_stay_in_force(good: bytes, tmp_path: Path, clock: HandClock) -> None:
    (tmp_path / "backup").write_bytes(good)
    to = tmp_path / "to"
    to.mkdir()
    own = f'database_url = "sqlite:///{to / "other.db"}"\n'
    (to / "tidemill.toml").write_text(own)
    settings = Settings(data_dir=to)
    from tidemill.backup.restore import restore

    done = restore(tmp_path / "backup", settings, None, {}, clock, replace=False)
    assert (to / "tidemill.toml").read_text() == own
    assert (to / "other.db").exists()
    assert Path(done.other_own_file).read_text().startswith("# mine")


def test_a_backup_is_private_and_writes_over_nothing(
    sqlite_url: str, tmp_path: Path, clock: HandClock
) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    path = tmp_path / "backup"
    before = os.umask(0)
    try:
        filled.back_up(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    with pytest.raises(Misconfigured, match="there already"):
        filled.back_up(path)
    assert path.read_bytes() == content
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Misconfigured, match="there already"):
        filled.back_up(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_backup_that_fails_leaves_nothing(sqlite_url: str, tmp_path: Path, clock: HandClock) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    (filled.folder / "tidemill.toml").write_text("half = ")
    with pytest.raises(Misconfigured, match="being edited"):
        filled.back_up(tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


def test_two_backups_to_one_name_do_not_meet(sqlite_url: str, tmp_path: Path, clock: HandClock) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    with private_file(tmp_path / "backup") as file:
        file.write(b"the first")
        with pytest.raises(Misconfigured, match="Another backup"):
            filled.back_up(tmp_path / "backup")
    assert (tmp_path / "backup").read_bytes() == b"the first"
    (tmp_path / "backup").unlink()
    (tmp_path / "backup.partial").write_bytes(b"of one that was killed")
    filled.back_up(tmp_path / "backup")
    verify(tmp_path / "backup")
    assert not (tmp_path / "backup.partial").exists()


def test_nothing_secret_is_printed(sqlite_url: str, tmp_path: Path, clock: HandClock) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    (filled.folder / "tidemill.toml").write_text(f'database_url = "{sqlite_url}"\n')
    words = [sys.executable, "-m", "tidemill", "backup", "-", "--data-dir", str(filled.folder)]
    done = subprocess.run(words, capture_output=True, check=True)
    said = done.stderr.decode()
    assert "Not in it: system disks" in said
    assert "secrets" in said
    assert "never" not in said, "a password hash"
    (tmp_path / "piped").write_bytes(done.stdout)
    assert verify(tmp_path / "piped").deployment == "d1"


def test_a_folder_without_a_deployment_has_nothing_to_back_up(tmp_path: Path, clock: HandClock) -> None:
    settings = Settings(data_dir=tmp_path / "nobody")
    with pytest.raises(TidemillError, match="no deployment"), private_file(tmp_path / "backup") as file:
        back_up(settings, clock, None, file)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, sqlite_url: str, clock: HandClock) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    (filled.folder / "tidemill.toml").write_text(f'database_url = "{sqlite_url}"\n')
    words = [sys.executable, "-m", "tidemill", "backup", "-", "--data-dir", str(filled.folder)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "tidemill: No space left on device\n")


def test_keys_that_cannot_be_read_are_not_left_out(tmp_path: Path, sqlite_url: str, clock: HandClock) -> None:
    filled = fill(tmp_path / "from", sqlite_url, clock)
    shutil.rmtree(filled.folder / "keys")
    (filled.folder / "keys").write_bytes(b"")  # for root, a folder without any rights can be read
    settings = Settings(data_dir=filled.folder, database_url=sqlite_url)
    with pytest.raises(NotADirectoryError):
        back_up(settings, clock, None, io.BytesIO())
