"""The data folder of a deployment."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.stock import HandClock
from tidemill.actions.first_login import ensure_first_logins
from tidemill.actions.passwords import matches
from tidemill.deployment import (
    add_account,
    deployment_label,
    initialise,
    only_server,
    only_user,
    open_database,
    pay_in,
    present_url,
    url_of,
)
from tidemill.model.errors import Conflict, Misconfigured, NotFound
from tidemill.settings import Configuration, Settings
from tidemill.store.accounts import login_of
from tidemill.store.database import Database
from tidemill.store.migrate import revision_of


def configuration(folder: Path, **settings: object) -> Configuration:
    return Configuration(Settings(data_dir=str(folder), **settings), {})


def test_init_makes_private_things_once(tmp_path: Path, clock: HandClock) -> None:
    folder = tmp_path / "data"
    initialise(configuration(folder), clock)
    first = (folder / "first-login.json").read_text()
    initialise(configuration(folder), clock)
    assert (folder / "first-login.json").read_text() == first
    assert [entry["username"] for entry in json.loads(first)] == ["admin", "user"]
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in [folder / "first-login.json", folder / "tidemill.db", *(folder / "keys").glob("*.pem")]:
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("folders", [["one", "one", "one"], ["one", "two", "three"]])
def test_who_inits_at_the_same_instant_is_told_passwords_that_are_good(
    new_url: Callable[[], str], tmp_path: Path, clock: HandClock, folders: list[str]
) -> None:
    for number in range(3):
        url, meeting = new_url(), threading.Barrier(len(folders))
        where = [tmp_path / f"{number}-{name}" for name in folders]

        def init(folder: Path, url: str = url, meeting: threading.Barrier = meeting) -> None:
            folder.mkdir(exist_ok=True)
            database = Database(url)
            meeting.wait(30)
            try:
                ensure_first_logins(database, folder, clock.now())
            finally:
                database.close()

        with ThreadPoolExecutor(len(folders)) as pool:
            list(pool.map(init, where))
        files = {file for folder in where for file in folder.iterdir()}
        assert [file.name for file in files] == ["first-login.json"], files
        logins = json.loads(files.pop().read_text())
        database = Database(url)
        for login in logins:
            found = database.run(lambda connection, name=login["username"]: login_of(connection, name))
            assert found is not None
            assert found.user.is_admin == login["is_admin"]
            assert matches(login["password"], found.password_hash)
        database.close()


def test_a_second_server_on_the_same_folder_is_refused_and_told_which_one_has_it(tmp_path: Path) -> None:
    with (
        only_server(tmp_path),
        pytest.raises(Misconfigured, match=r"process \d+.*another --data-dir"),
        only_server(tmp_path),
    ):
        pytest.fail("two servers at once")
    with only_server(tmp_path):
        pass


def test_a_second_server_on_the_same_file_is_refused_wherever_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "one" / "tidemill.db"
    file.parent.mkdir()
    other = tmp_path / "other.db"
    other.symlink_to(file)
    own = url_of(Settings(data_dir=str(file.parent)))
    elsewhere = url_of(Settings(data_dir=str(tmp_path / "two"), database_url=f"sqlite:///{other}"))
    with only_user(own):
        with (
            pytest.raises(Misconfigured, match=rf"process {os.getpid()}.*{file}.*PostgreSQL"),
            only_user(elsewhere),
        ):
            pytest.fail("two servers at once")
        with only_user(url_of(Settings(database_url="postgresql://somebody@somewhere/x"))):
            pass  # which is for many
    with only_user(elsewhere):
        pass


def test_a_second_server_on_the_same_file_by_a_hard_link_is_refused(tmp_path: Path) -> None:
    own = url_of(Settings(data_dir=str(tmp_path)))
    with only_user(own, make=True):
        (tmp_path / "two").mkdir()
        link = tmp_path / "two" / "tidemill.db"
        link.hardlink_to(tmp_path / "tidemill.db")
        elsewhere = url_of(Settings(data_dir=str(link.parent)))
        with pytest.raises(Misconfigured, match=rf"{link} under another name"), only_user(elsewhere):
            pytest.fail("two servers at once")
    with only_user(elsewhere):
        pass


def test_holding_the_file_leaves_the_databases_own_locks_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    file = tmp_path / "tidemill.db"
    ask = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"

    def other() -> str:
        done = subprocess.run(
            [sys.executable, "-c", ask, str(file)], capture_output=True, text=True, check=False
        )
        return done.stderr

    with only_user(url_of(settings), make=True):
        database = open_database(settings)
        try:
            assert other() == "", "another process writes while nobody else does"
            assert "database is locked" in database.run(lambda _: other())
        finally:
            database.close()


def test_a_data_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50% of ?x=y#z %41"
    settings = Settings(data_dir=str(folder))
    open_database(settings).close()
    assert (folder / "tidemill.db").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_servers_that_start_at_the_same_instant_agree_on_a_label(database_url: str, tmp_path: Path) -> None:
    meeting = threading.Barrier(4)

    def label(number: int) -> str:
        folder = tmp_path / str(number)
        folder.mkdir()
        database = Database(database_url)
        try:
            meeting.wait(30)
            return deployment_label(database, Settings(data_dir=str(folder)))
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(label, range(4)))) == 1


def test_an_account_is_added_to_a_deployment_and_never_makes_one(tmp_path: Path, clock: HandClock) -> None:
    folder = tmp_path / "data"
    with pytest.raises(Misconfigured, match="no deployment"):
        add_account(configuration(folder), clock, "carol", is_admin=False)
    assert not folder.exists()
    initialise(configuration(folder), clock)
    user, password = add_account(configuration(folder), clock, "carol", is_admin=True)
    assert user.is_admin
    assert len(password) == 20
    with pytest.raises(Conflict):
        add_account(configuration(folder), clock, "Carol", is_admin=False)


def test_an_empty_database_or_a_folder_that_is_not_there_is_no_deployment(
    postgres: PostgresServer, tmp_path: Path, clock: HandClock
) -> None:
    """Whoever mistyped one of them is told, and finds the database as it was."""
    url = postgres.new_database(migrated=False)
    with pytest.raises(Misconfigured, match="database is empty"):
        add_account(configuration(tmp_path, database_url=url), clock, "carol", is_admin=False)
    database = Database(url)
    assert database.run(revision_of) is None
    database.close()
    with pytest.raises(Misconfigured, match="no deployment"):
        present_url(configuration(tmp_path / "typo", database_url=url).settings)
    assert not (tmp_path / "typo").exists()


def test_the_label_of_a_deployment_is_drawn_once_and_cannot_be_changed(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path))
    database = open_database(settings)
    try:
        label = deployment_label(database, settings)
        assert deployment_label(database, settings) == label
        with pytest.raises(Misconfigured, match=label):
            deployment_label(database, Settings(data_dir=str(tmp_path), deployment="other"))
    finally:
        database.close()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="cannot be used"):
        open_database(Settings(data_dir=str(tmp_path / "file" / "data")))


def test_a_data_folder_is_marked_once(tmp_path: Path, clock: HandClock) -> None:
    """A database that was lost and begun anew has another label: the disks in the folder are not its own."""
    settings = configuration(tmp_path).settings
    first = open_database(settings)
    label = deployment_label(first, settings)
    assert deployment_label(first, settings) == label
    first.close()
    for file in tmp_path.glob("tidemill.db*"):
        file.unlink()
    again = open_database(settings)
    assert deployment_label(again, settings) != label
    assert (tmp_path / "deployment").read_text() == f"{label}\n"
    again.close()


def test_the_operator_writes_down_payments_without_a_server(tmp_path: Path, clock: HandClock) -> None:
    made = configuration(tmp_path / "data")
    with pytest.raises(Misconfigured):
        pay_in(made, clock, "user", 5, id="a", memo="")
    initialise(made, clock)
    for id, amount, there in (("a", 500, 500), ("a", 500, 500), ("b", 7, 507), ("c", -507, 0)):
        assert pay_in(made, clock, "User", amount, id=id, memo="").available == there
    with pytest.raises(Conflict, match="paid back"):
        pay_in(made, clock, "user", -1, id="d", memo="")
    with pytest.raises(NotFound):
        pay_in(made, clock, "nobody", 1, id="e", memo="")


@pytest.mark.parametrize(
    ("amount", "code", "says"),
    [
        ("12.50", 0, "user can spend 12.5 EUR"),
        ("0.000001", 0, "user can spend 0.000001 EUR"),
        ("0.0000001", 1, "finer than a millionth"),
        ("0", 1, "nothing to write down"),
        ("a lot", 1, "not an amount of money"),
        ("-5", 1, "cannot be paid back"),
    ],
)
def test_tidemill_credit(tmp_path: Path, amount: str, code: int, says: str) -> None:
    from typer.testing import CliRunner

    from tidemill.root import app

    folder = ["--data-dir", str(tmp_path / "data")]
    assert CliRunner().invoke(app, ["init", *folder]).exit_code == 0
    found = CliRunner().invoke(app, ["credit", *folder, "--", "user", amount])
    assert (found.exit_code, says in found.output) == (code, True), found.output
