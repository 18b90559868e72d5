"""What ssh is told: only what was checked, read back by ``ssh -G``, whatever names and servers say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tidemill.cli import identities
from tidemill.cli.entering import SCP_TAKING, SSH_TAKING, here, leading, running, sides
from tidemill.cli.failures import Failure
from tidemill.cli.identities import Identity, made, matching, of_this_machine
from tidemill.cli.opening import url_of
from tidemill.cli.places import Places
from tidemill.cli.route import Route, options, quoted, remember, route_to
from tidemill.cli.ssh_config import NAME, block, include_line, named, taken_in
from tidemill.wire.instances import InstanceRow

ID = "notebook-11111111-2222-3333-4444-555555555555"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
PLAIN = Route(ID, "first", "root", "gpu.example.org", 31022, HOST_KEY)
HOSTILE = (
    "a\nProxyCommand touch /tmp/pwned",
    "a\r\nHost *",
    'a" "b',
    "a b",
    "*",
    "!x",
    "a,b",
    "-oProxyCommand=x",
    "a?",
    "github.com",
    "10.0.0.1",
    "localhost",
    "a#b",
    "a'b",
    "a\\b",
    "$(x)",
    "a\u2028b",
    "",
)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "my home 100%" / "tidemill", tmp_path / "cache")


def row(**changes: Any) -> InstanceRow:
    """As a server says it."""
    said = {
        "status": "Running",
        "id": ID,
        "name": "first",
        "user": "root",
        "address": "gpu.example.org",
        "port": 31022,
        "key": HOST_KEY,
    } | changes
    return InstanceRow.model_validate(
        {
            "instanceMetadata": {
                "instanceId": said["id"],
                "name": said["name"],
                "instanceUsername": said["user"],
            },
            "instanceRuntimeInfo": {"status": said["status"], "sshHostKey": said["key"]},
            "instanceSpecInfo": {
                "regionInfo": {"regionId": "r", "regionName": "r", "sshAddress": said["address"]},
                "nodePorts": [{"port": 22, "nodePort": said["port"]}],
            },
        }
    )


def understood(config: Path, host: str) -> dict[str, list[str]]:
    """What OpenSSH makes of a configuration."""
    done = subprocess.run(
        ["ssh", "-G", "-F", config, host],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def test_a_row_becomes_a_route() -> None:
    assert route_to(row()) == PLAIN
    assert route_to(row(address="2001:db8::1")).address == "2001:db8::1"


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "-oProxyCommand=touch /tmp/pwned"},
        {"address": "a\nProxyCommand x"},
        {"address": "a b"},
        {"address": "%h"},
        {"address": "fe80::1%eth0"},
        {"address": "$(x)"},
        {"address": "a`x`"},
        {"address": ""},
        {"key": f"{HOST_KEY}\n* ssh-ed25519 AAAA"},
        {"key": "@cert-authority AAAA"},
        {"key": ""},
        {"user": "-l"},
        {"user": "root\nHost *"},
        {"id": "-F/dev/stdin"},
        {"id": "*"},
        {"id": "a\nb"},
        {"port": 0},
        {"port": 65536},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Failure):
        route_to(row(**changes))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_a_line_or_a_pattern(name: str, places: Places, tmp_path: Path) -> None:
    route = replace(PLAIN, name=name)
    names, left_out = named([route])
    assert names == {}
    assert left_out == [route]
    text = "\n".join(block(route, names.get(ID), [places.ssh / "id_ed25519"], places))
    assert name not in text or name in {"", "-", "a b"}
    (tmp_path / "config").write_text(text)
    assert understood(tmp_path / "config", "elsewhere").get("proxycommand") is None
    assert understood(tmp_path / "config", "elsewhere")["hostname"] == ["elsewhere"]


def test_ssh_understands_what_is_written(places: Places, tmp_path: Path) -> None:
    key = places.ssh / "id_ed25519"
    (tmp_path / "config").write_text("\n".join(block(PLAIN, "first", [key, Path("/k")], places)))
    for host in ("first", ID):
        found = understood(tmp_path / "config", host)
        assert found["hostname"] == ["gpu.example.org"]
        assert found["port"] == ["31022"]
        assert found["user"] == ["root"]
        assert found["hostkeyalias"] == [ID]
        assert found["stricthostkeychecking"] == ["true"]
        assert found["identitiesonly"] == ["yes"]
        assert [each.replace("%%", "%") for each in found["identityfile"]] == [str(key), "/k"]
        assert [each.replace("%%", "%") for each in found["userknownhostsfile"]] == [str(places.known_hosts)]
    by_options = subprocess.run(
        ["ssh", "-G", "-F", "/dev/null", *options(PLAIN, [key], places), ID],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "hostname gpu.example.org\n" in by_options
    assert "hostkeyalias " + ID in by_options


def test_the_newest_gets_the_name_and_no_name_is_anothers_id() -> None:
    newest = replace(PLAIN, id="notebook-new")
    thief = replace(PLAIN, id="notebook-thief", name=ID)
    foreign = replace(PLAIN, id="notebook-foreign", name="训练-2_b")
    mine = replace(PLAIN, id="notebook-mine", name="work")
    names, left_out = named([newest, PLAIN, thief, foreign, mine], {"work"})
    assert names == {"notebook-new": "first", "notebook-foreign": "训练-2_b"}
    assert left_out == [PLAIN, thief, mine]
    assert not NAME.fullmatch("a\n")


def test_names_of_the_users_own_hosts_are_taken(tmp_path: Path) -> None:
    (tmp_path / "config").write_text('Include x\nHost work "play" *.lab\n  User me\nhost=build\nHost\n')
    assert taken_in(tmp_path / "config") == {"work", "play", "*.lab", "build"}
    assert taken_in(tmp_path / "none") == set()


def test_paths_that_ssh_cannot_have(tmp_path: Path) -> None:
    assert quoted(Path("/a b/100%")) == '"/a b/100%%"'
    for wrong in ('/a"b', "/a\nb", "/a${HOME}", "/a\\b"):
        with pytest.raises(Failure):
            quoted(Path(wrong))
    with pytest.raises(Failure):
        include_line(Places(tmp_path / "a*", tmp_path))


def test_a_host_key_takes_the_place_of_the_same_instances(places: Places) -> None:
    other = replace(PLAIN, id="notebook-other")
    remember([PLAIN, other], places)
    remember([replace(PLAIN, host_key=HOST_KEY[:-1] + "K")], places)
    assert places.known_hosts.read_text().splitlines() == [
        f"notebook-other {HOST_KEY}",
        f"{ID} {HOST_KEY[:-1]}K",
    ]


def test_a_key_is_made_once_and_is_the_first_choice(places: Places, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    assert of_this_machine(places, environ) == []
    own = made(places)
    assert made(places) == own
    assert (own.file.stat().st_mode & 0o777, own.line.split()[0]) == (0o600, "ssh-ed25519")
    assert sorted(each.name for each in places.ssh.iterdir()) == [
        ".id_ed25519.lock",
        "id_ed25519",
        "id_ed25519.pub",
    ]
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "id_rsa").write_text("private")
    (ssh / "id_rsa.pub").write_text("ssh-rsa AAAA me@here\n")
    (ssh / "id_ed25519.pub").write_text("ssh-ed25519 AAAB its private part is elsewhere\n")
    (ssh / "id_ecdsa").write_text("private")
    (ssh / "id_ecdsa.pub").write_text("two\nlines x\n")
    found = of_this_machine(places, environ)
    assert [each.file for each in found] == [own.file, ssh / "id_rsa"]
    assert matching(found, ["ssh-rsa AAAA another comment", "ssh-ed25519 AAAB"]) == [found[1]]
    assert matching(found, []) == []


def test_keys_of_the_agent_come_last(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = made(places)
    monkeypatch.setattr(identities, "_of_agent", lambda _: [own.line, "ssh-ed25519 AAAB in the agent"])
    found = of_this_machine(places, {"HOME": str(tmp_path)})
    assert [each.is_in_agent for each in found] == [False, True]
    assert identities.ready(found[1]).read_text() == "ssh-ed25519 AAAB in the agent\n"
    assert found[0] == Identity(own.line, own.file)


@pytest.mark.parametrize(
    ("words", "before", "rest"),
    [
        ("first", "", "first"),
        ("first -L 1:x:2", "", "first -L 1:x:2"),
        ("-L 1:x:2 -vA first cmd -x", "-L 1:x:2 -vA", "first cmd -x"),
        ("-L1:x:2 -tt first", "-L1:x:2 -tt", "first"),
        ("-vL 1:x:2 first", "-vL 1:x:2", "first"),
        ("-v -- first", "-v", "first"),
        ("-L", "-L", ""),
    ],
)
def test_options_before_the_name(words: str, before: str, rest: str) -> None:
    assert leading(words.split(), SSH_TAKING) == (before.split(), rest.split())


def test_options_of_a_copy_may_be_anywhere() -> None:
    assert leading(["-r", "a", "-l", "100", "b"], SCP_TAKING, anywhere=True) == (
        ["-r", "-l", "100"],
        ["a", "b"],
    )
    assert leading(["a", "--", "-b", "c"], SCP_TAKING, anywhere=True) == ([], ["a", "-b", "c"])


def test_sides_of_a_copy(tmp_path: Path) -> None:
    file = str(tmp_path / "a:b")
    Path(file).touch()
    said, sources, target = sides([file, "first one:"])
    assert (said, sources[0].path, sources[0].is_inside, target.path) == ("first one", file, False, "")
    assert sides(["me@first:x y", "."])[0] == "me@first"
    for wrong in (["a"], ["a", "b"], ["a:x", "b:y"], ["a:x", "a:y"], ["a:x", "./b", "a:z"]):
        with pytest.raises(Failure):
            sides(wrong)
    assert here("-x") == "./-x"
    assert here("a:b") == "./a:b"
    assert here("/a") == "/a"


class Watched:
    """A client whose instance has these statuses one after the other."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = statuses

    @property
    def instances(self) -> Watched:
        return self

    def watch(self, id: str) -> Iterator[InstanceRow]:
        assert id == ID
        return iter([row(status=status) for status in self.statuses])


def test_one_that_is_starting_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Watched("PullingImage", "PullingImage", "Starting", "Running")
    assert running(client, row(status="Initializing"), "first").instanceRuntimeInfo.status == "Running"
    assert capsys.readouterr().err == (
        "first is PullingImage; waiting until it runs\nfirst is Starting; waiting until it runs\n"
    )


@pytest.mark.parametrize("status", ["Stopped", "Stopping", "StartingFailed", "Archived"])
def test_one_that_will_not_run_is_not_waited_for(status: str) -> None:
    client: Any = Watched()
    with pytest.raises(Failure, match=f"a b is {status}") as failed:
        running(client, row(status=status), "a b")
    assert (failed.value.next == "Start it with: tidemill start 'a b'") == status.startswith("Stop")


def test_addresses() -> None:
    assert url_of("gpu.example.org", 31001) == "http://gpu.example.org:31001"
    assert url_of("::1", 31001) == "http://[::1]:31001"
