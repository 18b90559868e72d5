"""``tidemill ssh`` and ``tidemill cp`` with OpenSSH's programs, against an instance on the real engine."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
from tests.cli.conftest import COMMAND, Machine
from tests.cli.on_docker import at, deployment
from tests.journeys.running import Server, Tenant, free_port
from tests.journeys.visiting import Person
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, guest_folder: Path, base_image: str) -> Iterator[Server]:
    assert base_image
    with deployment(tmp_path_factory.mktemp("entering"), guest_folder) as server:
        yield server


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, server: Server, user: Tenant) -> Machine:
    """Somebody's machine that has no ssh key yet."""
    return Machine(tmp_path_factory.mktemp("laptop"), dict(at(server, user.token)))


@pytest.fixture(scope="module")
def first(user: Tenant) -> str:
    """An instance that was asked for a moment ago, and may not run yet."""
    return user.launch(name="first one", nodePorts=[7891])


def test_ssh_waits_makes_a_key_and_runs_a_command(laptop: Machine, user: Tenant, first: str) -> None:
    done = laptop.tidemill("ssh", "first", "--", "echo hello; id -un; exit 7")
    assert (done.returncode, done.stdout) == (7, "hello\nroot\n"), done.stderr
    key = laptop.home / ".config/tidemill/ssh/id_ed25519"
    assert f"An ssh key of this machine was added to the account: {key}\n" in done.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    (row,) = user.post("/api/user/sshkey/list")["sshKeys"]
    assert row["publicKey"] == key.with_suffix(".pub").read_text().strip()
    host_key = user.runtime(first)["sshHostKey"]
    assert (laptop.home / ".config/tidemill/ssh/known_hosts").read_text() == f"{first} {host_key}\n"


def test_again_it_says_nothing_and_passes_on_what_it_is_given(laptop: Machine, first: str) -> None:
    done = laptop.tidemill("ssh", first, "cat; ls -d /root -l >&2; test -t 0", stdin="through and back")
    assert (done.returncode, done.stdout) == (1, "through and back")
    assert done.stderr.endswith(" /root\n")
    assert done.stderr.count("\n") == 1
    assert "debug1: " in laptop.tidemill("ssh", "-v", "first", "true").stderr
    assert laptop.tidemill("ssh", "first", "-tt", "test -t 0").returncode == 0
    assert laptop.tidemill("ssh", "root@first", "-T", "--", "id", "-u").stdout == "0\n"
    assert laptop.tidemill("ssh", "first", "-l", "nobody-here", "-o", "BatchMode=yes").returncode == 255


@contextmanager
def agent(folder: Path, key: Path) -> Iterator[str]:
    """An agent with this key; gives its SSH_AUTH_SOCK."""
    socket = folder / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as keeper:
        try:
            until("the agent listens", socket.exists)
            subprocess.run(
                ["ssh-add", "-q", key], check=True, env=os.environ | {"SSH_AUTH_SOCK": str(socket)}
            )
            yield str(socket)
        finally:
            keeper.terminate()


def test_ports_and_the_agent_are_forwarded(laptop: Machine, first: str, tmp_path: Path) -> None:
    here = free_port()
    with agent(tmp_path, laptop.home / ".config/tidemill/ssh/id_ed25519") as socket:
        with_agent = Machine(laptop.home, {**laptop.environ, "SSH_AUTH_SOCK": socket})
        said = with_agent.answer("ssh", "first", "-A", "test -S $SSH_AUTH_SOCK && echo there")
        assert said == "there\n"
    with laptop.started("ssh", "-N", "-L", f"127.0.0.1:{here}:127.0.0.1:22", "first") as tunnel:
        try:
            banner = until("the tunnel stands", lambda: _banner(here))
        finally:
            tunnel.terminate()
    assert banner.startswith(b"SSH-2.0-")


def test_a_key_that_only_the_agent_has(laptop: Machine, user: Tenant, first: str, tmp_path: Path) -> None:
    person = Person.with_new_key(tmp_path)
    id = user.add_key(person.public_line, "in an agent")
    with agent(tmp_path, person.key) as socket:
        person.key.unlink()
        other = Machine(tmp_path / "home", {**laptop.environ, "SSH_AUTH_SOCK": socket})
        done = until(
            "the key opens the instance",
            lambda: done if (done := other.tidemill("ssh", "first", "id -u")).returncode == 0 else None,
            60,
        )
        assert (done.stdout, done.stderr) == ("0\n", "")
    assert not (other.home / ".config/tidemill/ssh/id_ed25519").exists()
    user.post("/api/user/sshkey/delete", {"sshKeyId": id})


def test_a_shell_in_a_terminal(laptop: Machine, first: str) -> None:
    shell = pexpect.spawn(
        COMMAND[0],
        ["ssh", first],
        env=laptop.given | {"TERM": "xterm"},
        dimensions=(40, 100),
        encoding="utf-8",
        timeout=60,
    )
    try:
        shell.expect("# ")
        shell.sendline("tty; stty size; exit 3")
        shell.expect("/dev/pts/.*40 100")
        shell.expect(pexpect.EOF)
    finally:
        shell.close(force=True)
    assert shell.exitstatus == 3


def _banner(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as through:
            return through.recv(8)
    except OSError:
        return b""


def test_cp_both_ways(laptop: Machine, first: str, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    folder = tmp_path / "data set"
    folder.mkdir()
    (folder / "a:b").write_bytes(content)
    laptop.answer("cp", "-r", str(folder), "first:/root/in here")
    laptop.answer("cp", "first one:in here/a:b", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    laptop.answer("cp", "first:in here", str(tmp_path / "all"), "-r")
    assert (tmp_path / "all/a:b").read_bytes() == content
    two = [tmp_path / "-one", tmp_path / "two"]
    for each in two:
        each.write_text(each.name)
    assert laptop.tidemill("cp", "-p", "-C", *map(str, two), f"{first}:/srv").returncode == 0
    assert laptop.answer("ssh", "first", "cat /srv/-one /srv/two") == "-onetwo"
    gone = laptop.tidemill("cp", "first:/no/such", str(tmp_path))
    assert (gone.returncode, "No such file" in gone.stderr) == (1, True)
    gone = laptop.tidemill("cp", str(tmp_path / "none"), "first:")
    assert (gone.returncode, gone.stderr) == (4, f"tidemill: There is no {tmp_path / 'none'} here\n")
    assert laptop.tidemill("cp", "a", "b").returncode == 2
    assert laptop.tidemill("cp", "first:a", "other:b").returncode == 2


@pytest.fixture
def known(laptop: Machine, user: Tenant, first: str) -> Iterator[list[str]]:
    """The names are in the user's own configuration of ssh; gives what its programs need to find that."""
    user.wait(first, "Running")
    mine = laptop.home / ".ssh/config"
    mine.parent.mkdir(mode=0o700, exist_ok=True)
    mine.write_text("Host *\n    HostName nowhere.invalid\n    Port 1\n")
    mine.chmod(0o640)
    assert laptop.tidemill("ssh-config", "--write").returncode == 2  # nobody to ask
    assert mine.read_text().startswith("Host *\n")
    for _ in range(2):
        assert laptop.tidemill("ssh-config", "--write", "-y").returncode == 0
    folder = laptop.home / ".config/tidemill/ssh/servers"
    assert mine.read_text() == (
        f'Include "{folder}/*.conf"\nHost *\n    HostName nowhere.invalid\n    Port 1\n'
    )
    assert stat.S_IMODE(mine.stat().st_mode) == 0o640
    yield ["-F", str(mine), "-o", "BatchMode=yes"]
    assert laptop.tidemill("ssh-config", "--remove").returncode == 0
    assert mine.read_text() == "Host *\n    HostName nowhere.invalid\n    Port 1\n"
    assert list(folder.iterdir()) == []


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def test_plain_ssh_scp_and_rsync_know_the_names(
    laptop: Machine, user: Tenant, first: str, known: list[str], tmp_path: Path
) -> None:
    """The user's own file points elsewhere for all hosts; the names win."""
    id = user.launch(name="second")
    user.wait(id, "Running")
    assert laptop.tidemill("ssh-config", "--write").returncode == 0
    for host in ("second", id, first):
        done = _run("ssh", *known, host, "id -un")
        assert (done.returncode, done.stdout) == (0, "root\n"), done.stderr
    (tmp_path / "file").write_text("by other programs")
    assert _run("scp", *known, tmp_path / "file", "second:/srv/").returncode == 0
    copied = _run("rsync", "-a", "-e", f"ssh {' '.join(known)}", "second:/srv/", tmp_path / "back/")
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "back/file").read_text() == "by other programs"
    user.do("terminate", id)
    printed = laptop.tidemill("ssh-config")
    assert f"Host {first}\n" in printed.stdout
    assert "second" not in printed.stdout
    assert printed.stderr == f"first one has no name that ssh could use alone; it is {first}\n"


def test_another_host_key_is_refused(laptop: Machine, first: str, known: list[str], tmp_path: Path) -> None:
    hosts = laptop.home / ".config/tidemill/ssh/known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    hosts.write_text(f"{first} {other}\n")
    refused = _run("ssh", *known, first, "true")
    assert (refused.returncode, "Host key verification failed" in refused.stderr) == (255, True)
    hosts.write_text("")
    refused = _run("ssh", *known, first, "true")
    assert (refused.returncode, "Host key verification failed" in refused.stderr) == (255, True)
    assert laptop.answer("ssh", first, "echo the server named it") == "the server named it\n"


def test_one_that_is_stopped(laptop: Machine, user: Tenant, first: str) -> None:
    user.do("stop", first)
    user.wait(first, "Stopped")
    done = laptop.tidemill("ssh", "first one", "true")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "tidemill: first one is Stopped. Start it with: tidemill start 'first one'\n"
    assert laptop.tidemill("ssh", "nobody").returncode == 4
    assert laptop.tidemill("ssh").returncode == 2
