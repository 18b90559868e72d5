"""Two tenants on one machine, each with root inside: what of the other, and of the machine, they get to."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.running import SMALL, Server, Tenant, docker, secret_free
from tests.journeys.visiting import Person, Visit
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

NEVER = "notebook-00000000-0000-4000-8000-000000000000"
PIDS = 150
VERBS = ("start", "stop", "restart", "terminate")


@dataclass(frozen=True)
class Town:
    """Alice has two instances and Bob one, all running."""

    server: Server
    alice: Tenant
    bob: Tenant
    first: str
    second: str
    bobs: str
    alices_secret: str
    alices_key: str
    visits: dict[str, Visit]
    arguments: set[str]  # command lines that were seen on the host while they were launched

    @property
    def here(self) -> Visit:
        """Alice in her first instance."""
        return self.visits[self.first]

    def address(self, id: str) -> str:
        container = self.alice.container(id)
        return docker(
            "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container
        )


@pytest.fixture(scope="module")
def town(
    shared_deployment: Callable[..., Server],
    guest: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Town]:
    server = shared_deployment(guest=guest, tables={"type": [SMALL | {"pids": PIDS}]}).start()
    alice, bob = server.add_tenant("alice"), server.add_tenant("bob")
    secret = f"secret-{secrets.token_hex(16)}"
    init = f"echo {secret} > /root/dataDisk/secret"
    with Watch() as watch:
        people = {
            tenant.username: Person.with_new_key(tmp_path_factory.mktemp("key")) for tenant in (alice, bob)
        }
        key = alice.add_key(people["alice"].public_line)
        bob.add_key(people["bob"].public_line)
        first = alice.launch(name="one", disk=1, init=init, env={"TOKEN": secret})
        second = alice.launch(name="two")
        bobs = bob.launch(name="three", disk=1)
        for tenant, id in ((alice, first), (alice, second), (bob, bobs)):
            tenant.wait(id, "Running")
    visits = {
        id: people[tenant.username].at(tenant, id)
        for tenant, id in ((alice, first), (alice, second), (bob, bobs))
    }
    yield Town(server, alice, bob, first, second, bobs, secret, key, visits, watch.seen)
    server.terminate_all(alice, bob)
    until("nothing is left", lambda: not server.leftovers(), 15)


class Watch:
    """Every command line and environment that any process of the host shows meanwhile."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    try:
                        line = (process / "cmdline").read_bytes()
                    except OSError:
                        continue
                    self.seen.add(line.replace(b"\0", b" ").decode(errors="replace"))


def _same_for_both(answers: list[Any]) -> None:
    first, second = answers
    assert first.status_code == second.status_code == 404
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]


@pytest.mark.parametrize("path", ["", "/events", "/logs", "/logs?follow=true"])
def test_looking_at_anothers_is_looking_at_nothing(town: Town, path: str) -> None:
    _same_for_both([town.bob.ask("GET", f"/api/instance/{id}{path}") for id in (town.first, NEVER)])


@pytest.mark.parametrize("verb", VERBS)
def test_asking_for_anothers_is_asking_for_nothing(town: Town, verb: str) -> None:
    answers = [
        town.bob.ask("POST", f"/api/instance/{verb}", {"instanceId": id}) for id in (town.first, NEVER)
    ]
    _same_for_both(answers)
    assert answers[0].json()["message"] == "ent: instance not found"
    assert town.alice.status(town.first) == "Running"


def test_lists_are_ones_own(town: Town) -> None:
    pager = {"currentPage": 1, "pageSize": 100}
    for filtered in ({}, {"filter": {"includeReleased": True}}, {"filter": {"name": "one"}}):
        rows = town.bob.post("/api/instance/list", {"pager": pager} | filtered)
        ids = {row["instanceMetadata"]["instanceId"] for row in rows["instances"]}
        assert ids <= {town.bobs}
        assert rows["pager"]["totalEntries"] == len(ids)
    assert "one" not in json.dumps(town.bob.post("/api/user/sshkey/list"))
    assert len(town.bob.post("/api/user/sshkey/list")["sshKeys"]) == 1


def test_anothers_ssh_key_is_no_key(town: Town) -> None:
    stranger = "00000000-0000-4000-8000-000000000000"
    _same_for_both(
        [
            town.bob.ask("POST", "/api/instance/create", town.bob.request(sshKeyIds=[id]))
            for id in (town.alices_key, stranger)
        ]
    )
    _same_for_both(
        [
            town.bob.ask("POST", "/api/user/sshkey/delete", {"sshKeyId": id})
            for id in (town.alices_key, stranger)
        ]
    )
    assert town.here.admitted()
    intruder = Visit(
        town.visits[town.bobs].person, "root", town.here.address, town.here.port, town.here.known_hosts
    )
    assert not intruder.admitted()


CONNECT = """python3 - <<'END'
import socket, sys
try:
    socket.create_connection(("{host}", {port}), timeout={seconds}).close()
except OSError as error:
    print("no:", error)
else:
    print("yes")
END"""


def _connects(visit: Visit, host: str, port: int = 22, seconds: float = 2) -> str:
    return visit.say(CONNECT.format(host=host, port=port, seconds=seconds)).strip()


def test_own_instances_meet_by_name_and_address(town: Town) -> None:
    hostname = town.visits[town.second].say("hostname").strip()
    for host in (hostname, town.second, town.address(town.second)):
        assert _connects(town.here, host) == "yes", host


def test_anothers_instance_is_not_met(town: Town) -> None:
    hostname = town.visits[town.bobs].say("hostname").strip()
    for host in (hostname, town.bobs, town.address(town.bobs)):
        assert _connects(town.here, host).startswith("no:"), host
    assert _connects(town.visits[town.bobs], town.address(town.first)).startswith("no:")


def test_the_machine_is_not_met(town: Town) -> None:
    """What the operator has published on the loopback address only is not for those inside."""
    gateway = town.here.say("ip -4 route show default").split()[2]
    ours, ssh = town.server.port, town.visits[town.bobs].port
    for host in ("127.0.0.1", gateway):
        for port in (ours, ssh):
            assert _connects(town.here, host, port).startswith("no:"), (host, port)


def test_no_process_of_the_machine_is_seen(town: Town) -> None:
    seen = town.here.say("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    for word in ("dockerd", "containerd", "serve --host", "pytest"):
        assert word not in seen
    assert 1 <= int(town.here.say("ls -d /proc/[0-9]* | wc -l")) < 40


def test_no_file_of_the_machine_is_seen(town: Town, tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("the machine's")
    for path in (
        tmp_path / "marker",
        town.server.folder,
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/var/lib/docker",
    ):
        assert town.here.ssh(f"test -e {path}").returncode == 1, path


def test_no_disk_of_the_machine_is_seen(town: Town) -> None:
    devices = town.here.say("find /dev -type b -o -name 'loop*' -o -name 'kmsg' -o -name mem")
    assert devices == ""
    disk = town.here.say("cat /sys/block/*/dev 2>/dev/null | head -20").split()
    assert disk, "the test wants to try the machine's disks by their numbers"
    for number in disk:
        major, minor = number.split(":")
        said = town.here.fails(f"mknod /tmp/disk b {major} {minor} && head -c 1 /tmp/disk")
        assert "Operation not permitted" in said, said


@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "mount --bind /etc /mnt",
        "mount -o remount,rw /.tidemill",
        "touch /.tidemill/mine",
        "touch /.tidemill/instance/mine",
        "umount /root/dataDisk",
        "unshare --mount true",
        "unshare --user --map-root-user true",
        "nsenter --target 1 --mount --net /bin/true && nsenter --target 1 --uts hostname changed",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "sysctl -w vm.drop_caches=3",
        "echo 1 > $(ls /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null)",
        "hostname changed",
        "date -s 2000-01-01",
        "ip link set eth0 down",
        "ip addr add 10.99.0.1/24 dev eth0",
        "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'",
        "dmesg | grep .",
        "head -c 1 /proc/kcore | grep .",
        "insmod /dev/null",
    ],
)
def test_what_root_inside_may_not_do(town: Town, attempt: str) -> None:
    town.here.fails(attempt)


def test_privileges_are_dropped_for_good(town: Town) -> None:
    status = dict(
        line.split(":\t", 1) for line in town.here.say("cat /proc/self/status").splitlines() if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    held = int(status["CapBnd"], 16)
    names = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19} | {
        "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_TIME": 25, "MKNOD": 27, "SYSLOG": 34, "BPF": 39,
    }  # fmt: skip
    assert [name for name, bit in names.items() if held >> bit & 1] == []


def test_anothers_data_disk_is_not_seen(town: Town) -> None:
    """Each sees one data disk, its own."""
    for id, own in ((town.first, "secret"), (town.bobs, "")):
        visit = town.visits[id]
        assert visit.say("ls /root/dataDisk").split() == own.split()
        assert visit.say("grep -c ' /root/dataDisk ' /proc/mounts").strip() == "1"
    assert town.visits[town.second].ssh("grep ' /root/dataDisk ' /proc/mounts").returncode == 1
    everything = town.visits[town.bobs].say(
        f"grep -rsl {town.alices_secret} /root /tmp /var /etc /home /mnt /.tidemill /run; true"
    )
    assert everything == ""


FORKS = """
import os, signal, time
children = []
end = time.monotonic() + 5
while time.monotonic() < end:
    try:
        child = os.fork()
    except BlockingIOError:
        time.sleep(0.01)
        continue
    if child == 0:
        signal.pause()
    children.append(child)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print(len(children))
"""


def test_an_instance_full_of_processes_is_only_that(town: Town) -> None:
    """Its limit holds, nobody else notices, and what runs in it goes on when there is room again."""
    began = town.server.log.count("happened=exited")
    with ThreadPoolExecutor() as pool:
        count = pool.submit(town.here.say, f"python3 -c '{FORKS}'")
        _fills(town, town.first)
        assert town.visits[town.bobs].say("echo alive") == "alive\n"
        assert town.visits[town.second].say("echo alive") == "alive\n"
        assert PIDS - 20 <= int(count.result()) < PIDS
    assert town.here.say("echo alive") == "alive\n"
    assert town.server.log.count("happened=exited") == began


def test_a_fork_bomb_is_bounded_and_a_restart_ends_it(town: Town) -> None:
    town.here.ssh('bash -c "bomb() { bomb | bomb & }; bomb" >/dev/null 2>&1 </dev/null &')
    _fills(town, town.first)
    for id in (town.second, town.bobs):
        assert town.visits[id].say("echo alive") == "alive\n"
    town.alice.do("restart", town.first)
    until("it was started anew", lambda: town.alice.events(town.first)[-1]["start"] == 2)
    town.alice.wait(town.first, "Running")
    assert town.here.say("echo alive; cat /root/dataDisk/secret").split() == ["alive", town.alices_secret]


def _fills(town: Town, id: str) -> None:
    """Wait until the engine sees an instance full of processes, and never fuller than it may be."""
    container = town.alice.container(id)

    def count() -> int:
        return len(docker("top", container, "-eo", "pid").splitlines()) - 1

    until("the instance is full", lambda: PIDS - 5 <= count() <= PIDS, 10)


def test_a_memory_hog_is_killed_alone(town: Town) -> None:
    other = town.visits[town.second]
    started = docker("inspect", "--format", "{{.State.StartedAt}}", town.alice.container(town.bobs))
    done = town.here.ssh("python3 -c 'x = bytearray(2**30); print(len(x))'", seconds=60)
    assert done.returncode in (137, 255), (done.returncode, done.stdout)  # 255: its session went with it
    assert done.stdout == b""
    assert other.say("echo alive") == "alive\n"
    until("the door is open again", lambda: town.here.ssh("true").returncode == 0, 30)
    assert docker("inspect", "--format", "{{.State.StartedAt}}", town.alice.container(town.bobs)) == started


def test_shared_memory_is_bounded(town: Town) -> None:
    assert int(town.here.say("df -B1 --output=size /dev/shm | tail -1")) == 128 * 2**20


def test_no_secret_is_shown_on_the_machine(town: Town) -> None:
    """Command lines of all processes while alice launched, and what the engine shows of her container."""
    shown = "\n".join(town.arguments)
    assert "serve --host 127.0.0.1" in shown, "the watch saw nothing"
    host_keys = [path.read_bytes() for path in (town.server.folder / "instances").glob("*/host_key")]
    assert len(host_keys) == 3
    known = {
        "the secret": town.alices_secret,
        "the password": town.alice.password,
        "the token": town.alice.token,
    }
    secret_free(shown, known)
    described = json.loads(docker("inspect", town.alice.container(town.first)))[0]
    described["Config"].pop("Env")  # where variables of the instance have to be
    secret_free(json.dumps(described), known)
    assert "secret" not in json.dumps(described["Config"]["Labels"])


def test_what_the_server_keeps_is_for_its_operator_only(town: Town) -> None:
    assert town.server.folder.stat().st_mode & 0o777 == 0o700
    open_ones = [
        str(path)
        for path in town.server.folder.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and "/guest/" not in str(path)
        and path.name not in {"tidemill.toml", "server.lock"}
        and "/mounts/" not in str(path)
        and path.stat().st_mode & 0o077
    ]
    assert open_ones == []


def test_the_log_holds_no_secret(town: Town) -> None:
    """After everything above, and after requests that go wrong with secrets in them."""
    server, alice = town.server, town.alice
    key = alice.post("/api/user/apikey/create", {"name": "ci"})["key"]
    typo = f"typo-{secrets.token_hex(12)}"
    wrong = server.http.post("/api/user/login", json={"username": "alice", "password": typo})
    assert wrong.status_code == 401
    swapped = server.http.post("/api/user/login", json={"username": typo, "password": "alice"})
    assert swapped.status_code == 401
    broken = server.http.post(
        "/api/instance/create",
        content=f'{{"name": "{typo}", "initScript": "{typo}", ',
        headers={"X-API-Key": key, "Content-Type": "application/json"},
    )
    assert broken.status_code == 400
    body = alice.request(env={"TOKEN": typo}, init=typo, image="Debian 12") | {"imageId": "none"}
    assert alice.ask("POST", "/api/instance/create", body).status_code == 404
    for header in (
        {"Authorization": f"Bearer {typo}"},
        {"X-API-Key": typo},
        {"Cookie": f"AccessToken={typo}"},
    ):
        assert server.http.get("/api/user/me", headers=header).status_code == 401
    log = server.log
    assert "instance moved" in log
    host_keys = [path.read_bytes() for path in (server.folder / "instances").glob("*/host_key")]
    secret_free(
        log,
        {
            "the secret": town.alices_secret,
            "a password": alice.password,
            "bob's password": town.bob.password,
            "a token": alice.token,
            "an API key": key,
            "a mistyped secret": typo,
        },
    )
    for content in host_keys:
        assert content[-64:-32].hex() not in log
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY", log)
