"""The data folder of a deployment."""

import json
from pathlib import Path

import pytest

from tests.stock import HandClock
from tidemill.deployment import add_account, deployment_label, initialise, only_server, open_database
from tidemill.model.errors import Conflict, Misconfigured
from tidemill.settings import Configuration, Settings


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


def test_a_second_server_on_the_same_folder_is_refused_and_told_which_one_has_it(tmp_path: Path) -> None:
    with (
        only_server(tmp_path),
        pytest.raises(Misconfigured, match=r"process \d+.*another --data-dir"),
        only_server(tmp_path),
    ):
        pytest.fail("two servers at once")
    with only_server(tmp_path):
        pass


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
