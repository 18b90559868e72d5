"""Which server is asked and what it is shown: flag, environment, file; and no secret goes astray."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidemill.cli import servers
from tidemill.cli.access import Access, chosen
from tidemill.cli.credentials import Credential, FileKeep, keep_of
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.places import Places
from tidemill.cli.servers import Server, Servers, checked_url, name_for
from tidemill.root import app

LAB = Server("lab", "https://lab.example.org")
PROD = Server("prod", "https://prod.example.org:8420")


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "config" / "tidemill", tmp_path / "cache", tmp_path / "api")


@pytest.fixture
def known(places: Places) -> Servers:
    """Two servers, the first of them current, with somebody logged in at both."""
    both = Servers().with_one(LAB).with_one(PROD)
    servers.write(places.config, both)
    for server in (LAB, PROD):
        keep_of(server, places).put(server, Credential(server.url, "ann", token=f"token-of-{server.name}"))
    return both


def asked(places: Places, said: str | None = None, **environ: str) -> Access:
    return chosen(said, places=places, environ=environ)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("said", "environ", "url", "secret"),
    [
        (None, {}, LAB.url, "token-of-lab"),
        ("prod", {}, PROD.url, "token-of-prod"),
        ("https://prod.example.org:8420/api/", {}, PROD.url, "token-of-prod"),
        (None, {"TIDEMILL_SERVER": "prod"}, PROD.url, "token-of-prod"),
        ("lab", {"TIDEMILL_SERVER": "prod"}, LAB.url, "token-of-lab"),
        (None, {"TIDEMILL_API_KEY": "k"}, LAB.url, "k"),
        (None, {"TIDEMILL_URL": PROD.url}, PROD.url, "token-of-prod"),
        (None, {"TIDEMILL_URL": PROD.url, "TIDEMILL_SERVER": "lab"}, PROD.url, "token-of-prod"),
        (
            None,
            {"TIDEMILL_URL": "https://ci.example.org", "TIDEMILL_TOKEN": "t"},
            "https://ci.example.org",
            "t",
        ),
        (None, {"TIDEMILL_URL": "https://ci.example.org"}, "https://ci.example.org", None),
        # The environment's credential is TIDEMILL_URL's and nobody else's.
        ("prod", {"TIDEMILL_URL": LAB.url, "TIDEMILL_API_KEY": "k"}, PROD.url, "token-of-prod"),
        ("prod", {"TIDEMILL_URL": PROD.url + "/", "TIDEMILL_API_KEY": "k"}, PROD.url, "k"),
        ("https://evil.example.org", {}, "https://evil.example.org", None),
    ],
)
def test_flag_then_environment_then_file(
    places: Places, said: str | None, environ: Mapping[str, str], url: str, secret: str | None
) -> None:
    found = asked(places, said, **environ)
    assert (found.server.url, found.token or found.api_key) == (url, secret)


def test_a_servers_new_address_is_not_shown_the_old_ones_token(places: Places, known: Servers) -> None:
    moved = Server("lab", "https://elsewhere.example.org")
    servers.write(places.config, known.with_one(moved))
    assert asked(places).server == moved
    assert not asked(places).is_logged_in


def test_the_only_server_is_meant_and_none_is_said(places: Places) -> None:
    with pytest.raises(Failure, match="No server is known") as none:
        asked(places)
    assert none.value.exit is Exit.NOT_LOGGED_IN
    servers.write(places.config, Servers("", {"lab": LAB}))
    assert asked(places).server == LAB


@pytest.mark.usefixtures("known")
def test_both_kinds_of_credentials_at_once_are_refused(places: Places) -> None:
    with pytest.raises(Failure, match="both set") as both:
        asked(places, TIDEMILL_API_KEY="k", TIDEMILL_TOKEN="t")
    assert both.value.exit is Exit.USAGE


def test_in_an_instance_its_own_key_comes_last_and_by_self(places: Places) -> None:
    with pytest.raises(Failure, match="no instance"):
        chosen(own=True, places=places, environ={})
    places.instance.write_text(
        "TIDEMILL_URL=http://10.0.0.1:8420\nTIDEMILL_API_KEY=own=\nTIDEMILL_INSTANCE=notebook-1\n"
    )
    found = asked(places)
    assert (found.server.url, found.api_key, found.instance) == ("http://10.0.0.1:8420", "own=", "notebook-1")
    servers.write(places.config, Servers().with_one(LAB))
    assert asked(places).server == LAB
    assert chosen(own=True, places=places, environ={"TIDEMILL_URL": LAB.url}) == found
    assert "own=" not in repr(found)


def test_credentials_are_the_owners_alone(
    places: Places, known: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert known.current == "lab"
    assert places.credentials.stat().st_mode & 0o777 == 0o600
    assert places.home.stat().st_mode & 0o777 == 0o700
    places.credentials.chmod(0o644)
    assert asked(places).token == "token-of-lab"
    assert "could be read by others" in capsys.readouterr().err
    assert places.credentials.stat().st_mode & 0o777 == 0o600
    assert asked(places).token == "token-of-lab"
    assert not capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_read(places: Places, known: Servers) -> None:
    assert known.current == "lab"
    os.chown(places.credentials, 12345, 12345)
    with pytest.raises(Failure, match="another user"):
        asked(places)


def test_a_credentials_file_that_is_broken_is_said(places: Places, known: Servers) -> None:
    assert known.current == "lab"
    places.credentials.write_text("{")
    with pytest.raises(Failure, match="cannot be read"):
        asked(places)


def test_logins_at_the_same_time_keep_each_other(places: Places) -> None:
    keep = FileKeep(places.credentials)
    many = [Server(f"s{number}", f"https://s{number}.example.org") for number in range(12)]
    threads = [
        threading.Thread(target=keep.put, args=(server, Credential(server.url, "ann", token=server.name)))
        for server in many
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(found := keep.get(server)) and found.token for server in many] == [
        server.name for server in many
    ]
    keep.forget(many[0])
    assert keep.get(many[0]) is None
    assert keep.get(many[1]) is not None


def test_what_is_no_address_is_refused() -> None:
    assert checked_url("gpu.example.org") == "https://gpu.example.org"
    assert checked_url(" http://[::1]:8420/api ") == "http://[::1]:8420"
    assert checked_url("https://h/cloud/api/") == "https://h/cloud"
    for wrong in ("", "https://", "ftp://x", "http://u:p@x", "http://x?y", "http://x:99999", "https://a\nb"):
        with pytest.raises(Failure):
            checked_url(wrong)
    assert name_for("http://127.0.0.1:8420") == "127.0.0.1-8420"
    assert name_for("http://[::1]:1") == "1-1"


def test_folders_are_those_that_xdg_names() -> None:
    home = {"HOME": "/home/ann"}
    assert Places.of(home).home == Path("/home/ann/.config/tidemill")
    assert Places.of(home | {"XDG_CONFIG_HOME": "/x", "XDG_CACHE_HOME": "/c"}).cache == Path("/c/tidemill")
    assert Places.of(home | {"XDG_CONFIG_HOME": "x"}).config == Path("/home/ann/.config/tidemill/config.toml")
    assert Places.of({"TIDEMILL_HOME": "/t"}).credentials == Path("/t/credentials.json")


def test_tidemill_config(tmp_path: Path) -> None:
    environ = {"TIDEMILL_HOME": str(tmp_path / "home")}

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["config", *words], env=environ)
        return done.exit_code, done.output

    assert run("list", "-o", "json") == (0, "[]\n")
    assert run("add", "lab", "http://127.0.0.1:8420")[0] == 0
    assert run("add", "prod", "prod.example.org")[0] == 0
    assert run("list", "-o", "name") == (0, "lab\nprod\n")
    assert json.loads(run("show", "-o", "json")[1])["url"] == "http://127.0.0.1:8420"
    assert run("use", "prod")[0] == 0
    code, said = run("list")
    assert code == 0
    assert said.splitlines()[2].split() == ["*", "prod", "https://prod.example.org", "file"]
    code, said = run("use", "lib")
    assert (code, "known: lab, prod" in said) == (4, True)
    assert run("add", "a b", "x")[0] == 2
    assert run("remove", "prod")[0] == 0
    assert json.loads(run("show", "-o", "json")[1])["source"] == "the only server"
    code, said = run("show", "-s", "prod", "-o", "json")
    assert (code, json.loads(said)["exit"]) == (4, 4)


def test_commands_at_once_lose_no_server_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"

    def add(number: int) -> None:
        server = Server(f"s{number}", f"https://s{number}.example.org")
        servers.change(path, lambda known: known.with_one(server))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert set(servers.read(path).by_name) == {f"s{number}" for number in range(24)}


@pytest.mark.parametrize("home", ["/proc/nowhere/tidemill", "/etc/passwd"])
def test_a_home_that_can_be_no_folder_is_said_in_a_sentence(home: str) -> None:
    done = CliRunner().invoke(app, ["config", "add", "a", "http://127.0.0.1:1"], env={"TIDEMILL_HOME": home})
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert f"{home} can be no folder" in done.output
    assert "TIDEMILL_HOME" in done.output
