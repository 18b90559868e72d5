"""What a person does, from login to nothing left, against the real engine and with the real clients."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journeys.running import Server, Tenant, described, docker, running_container
from tests.journeys.visiting import Person, Visit
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

STARTED_AT = "{{.State.StartedAt}}"

INIT = "\n".join(
    (
        "echo the init script speaks",
        "echo and complains >&2",
        "id -u > /root/who",
        "echo from the start > /root/dataDisk/greeting",
        "exit 3",
    )
)
WEB = 7891
GB = 10**9


@pytest.fixture(scope="module")
def server(shared_deployment: Callable[..., Server], guest: Path) -> Server:
    return shared_deployment(guest=guest).start()


@pytest.fixture(scope="module")
def user(server: Server, person: Person) -> Iterator[Tenant]:
    """The first user with a registered key, who ends all they have in the end."""
    tenant = server.first_login()
    tenant.add_key(person.public_line, "laptop")
    yield tenant
    server.terminate_all(tenant)


@pytest.fixture(scope="module")
def instance(user: Tenant) -> str:
    """An instance with a data disk, an init script and a published port, once it runs."""
    id = user.launch(name="first one", disk=1, init=INIT, nodePorts=[WEB])
    user.wait(id, "Running")
    return id


@pytest.fixture
def visit(user: Tenant, person: Person, instance: str) -> Visit:
    return person.at(user, instance)


def test_what_the_list_shows(user: Tenant, instance: str, server: Server) -> None:
    answer = user.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 10}})
    row = next(each for each in answer["instances"] if each["instanceMetadata"]["instanceId"] == instance)
    spec, runtime = row["instanceSpecInfo"], row["instanceRuntimeInfo"]
    assert row["instanceMetadata"]["instanceUsername"] == "root"
    assert (runtime["status"], runtime["phase"], runtime["diagnosisReason"]) == ("Running", "Running", "")
    assert spec["regionInfo"]["sshAddress"] == "127.0.0.1"
    ports = {each["port"]: each["nodePort"] for each in spec["nodePorts"]}
    assert set(ports) == {22, WEB}
    assert all(server.ports[0] <= port <= server.ports[1] for port in ports.values())
    assert answer["pager"]["totalEntries"] >= 1


def test_ssh_as_root_in_the_image(visit: Visit) -> None:
    assert visit.say("id -un; . /etc/os-release; echo $ID; hostname").split() == [
        "root",
        "debian",
        "first-one",
    ]


def test_what_the_type_promises(visit: Visit) -> None:
    """Half a core and a quarter of a GiB, as the engine was told."""
    assert visit.say(
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
    ).split()[0] == str(256 * 2**20)


def test_copies_by_scp_and_sftp(visit: Visit, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "sent").write_bytes(content)
    visit.copy(tmp_path / "sent", ":/root/dataDisk/sent")
    visit.copy(":/root/dataDisk/sent", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    (tmp_path / "back").unlink()
    told = visit.sftp(f"cd dataDisk\nls -l\nrename sent kept\nget kept {tmp_path}/back\nrm kept\n")
    assert "sent" in told
    assert (tmp_path / "back").read_bytes() == content
    assert visit.fails("cat /root/dataDisk/kept")


def test_forwards_a_port(visit: Visit) -> None:
    with visit.forwarded(22) as here, socket.create_connection(("127.0.0.1", here), timeout=10) as through:
        assert through.recv(8).startswith(b"SSH-2.0-")


def test_a_published_port(user: Tenant, visit: Visit, instance: str) -> None:
    """A server of the user's own is reached from outside at the node port that the list names."""
    visit.say(
        "mkdir -p /srv/web && cd /srv/web && echo hello from inside > index.html && "
        f"(setsid python3 -m http.server {WEB} >/dev/null 2>&1 </dev/null &)"
    )
    url = f"http://127.0.0.1:{user.node_port(instance, WEB)}/index.html"

    def page() -> bytes:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
                return answer.read()
        except OSError:
            return b""

    assert until("the page is served", page, 15) == b"hello from inside\n"


def test_the_data_disk_is_a_disk(visit: Visit, tmp_path: Path) -> None:
    """As large as asked, writing past it fails inside, and the host gives no more than that."""
    size, target = visit.say("df --output=size,target -B1 /root/dataDisk | tail -1").split()
    assert target == "/root/dataDisk"
    assert 0.85 * GB <= int(size) <= 1.0 * GB
    free = shutil.disk_usage(tmp_path).free
    said = visit.fails("dd if=/dev/zero of=/root/dataDisk/full bs=1M count=1500", seconds=90)
    assert "No space left on device" in said
    assert visit.say("wc -c < /root/dataDisk/greeting").strip() == "15"
    assert free - shutil.disk_usage(tmp_path).free < 1.3 * GB  # others write to this disk as well
    visit.say("rm /root/dataDisk/full && echo again > /root/dataDisk/after && sync")


def test_the_init_script_left_its_traces(user: Tenant, visit: Visit, instance: str) -> None:
    """Run once as root; its output is in the documented file and in the logs, its end in the events."""
    ended = until(
        "the end of the init script is told",
        lambda: [each for each in user.events(instance) if each["event"].startswith("initScript")],
    )
    assert [each["event"] for each in ended] == ["initScriptFailed"]
    assert ended[0]["message"] == "The init script ended with exit code 3"
    assert user.status(instance) == "Running"
    assert visit.say("cat /root/who /root/dataDisk/greeting") == "0\nfrom the start\n"
    assert visit.say("cat /var/log/tidemill/init.log") == "the init script speaks\nand complains\n"
    logs = user.logs(instance)
    assert "the init script speaks" in logs
    assert "and complains" in logs


def test_keys_come_and_go(user: Tenant, visit: Visit, instance: str, tmp_path: Path) -> None:
    other = Person.with_new_key(tmp_path)
    entry = other.at(user, instance)
    assert not entry.admitted()
    key_id = user.add_key(other.public_line, "second laptop")
    until("a key added later opens the instance", entry.admitted, 15)
    user.post("/api/user/sshkey/delete", {"sshKeyId": key_id})
    until("a key removed later does not", lambda: not entry.admitted(), 15)
    assert visit.admitted()


def test_stop_and_start_keep_everything(user: Tenant, person: Person, instance: str) -> None:
    visit = person.at(user, instance)
    visit.say("echo on the system disk > /etc/mine; echo on the data disk > /root/dataDisk/mine; sync")
    before = user.get(instance)
    user.do("stop", instance)
    user.do("stop", instance)
    user.wait(instance, "Stopped")
    assert visit.ssh("true").returncode == 255
    until("the container is not running", lambda: not running_container(instance), 10)
    refused = user.ask("POST", "/api/instance/restart", {"instanceId": instance})
    assert (refused.status_code, "Stopped" in refused.json()["message"]) == (409, True)
    user.do("start", instance)
    after = user.wait(instance, "Running")
    for part in ("instanceMetadata", "instanceSpecInfo"):
        assert after[part] == before[part]
    assert after["instanceRuntimeInfo"]["sshHostKey"] == before["instanceRuntimeInfo"]["sshHostKey"]
    # The way in that was known before still holds, host key and all.
    assert (
        visit.say("cat /etc/mine /root/dataDisk/mine /root/who")
        == "on the system disk\non the data disk\n0\n"
    )
    assert visit.say("cat /var/log/tidemill/init.log") == "the init script speaks\nand complains\n", (
        "run again"
    )


def test_restart(user: Tenant, visit: Visit, instance: str) -> None:
    booted = described(instance, STARTED_AT)
    visit.say("echo still here > /root/restarted; sync")
    user.do("restart", instance)
    until("it was started anew", lambda: described(instance, STARTED_AT) not in (booted, ""))
    user.wait(instance, "Running")
    assert visit.say("cat /root/restarted") == "still here\n"


def test_a_death_is_noticed_said_and_mended(user: Tenant, visit: Visit, instance: str) -> None:
    booted = described(instance, STARTED_AT)
    seen = user.events(instance)[-1]["seq"]
    docker("kill", "--signal", "KILL", user.container(instance))
    until("it was started anew", lambda: described(instance, STARTED_AT) not in (booted, ""))
    user.wait(instance, "Running")
    assert visit.say("cat /root/dataDisk/greeting") == "from the start\n"
    (death,) = [each for each in user.events(instance) if each["seq"] > seen and each["event"] == "exited"]
    assert "exit code 137" in death["message"]
    assert (death["from"], death["to"]) == ("Running", "Restarting")


def test_terminate_and_nothing_is_left(
    shared_deployment: Callable[..., Server], guest: Path, person: Person
) -> None:
    """A second deployment, so that "nothing" can mean nothing."""
    server = shared_deployment("second", guest=guest).start()
    user = server.first_login()
    user.add_key(person.public_line)
    id = user.launch(name="gone soon", disk=1, nodePorts=[WEB, 8888])
    user.wait(id, "Running")
    port = user.node_port(id)
    there = server.leftovers()
    assert len(there.containers) == len(there.networks) == len(there.loops) == len(there.mounts) == 1
    assert port in there.ports
    user.do("terminate", id)
    until("it is released", lambda: user.status(id) == "Released")
    until("nothing is left", lambda: not server.leftovers(), 15)
    files = [str(each) for each in server.folder.rglob("*") if id in str(each)]
    assert files == []
    again = user.ask("POST", "/api/instance/terminate", {"instanceId": id})
    assert (again.status_code, again.json()["message"]) == (404, "ent: instance not found")
    listed = user.post("/api/instance/list", {"pager": {"currentPage": 1, "pageSize": 10}})
    assert listed["instances"] == []
    assert server.stop() == 0
    assert not server.leftovers()
    assert "Traceback" not in server.log
    url = server.settings.get("database_url", "")
    assert bool(list(server.folder.glob("*.db*"))) == (not url)
    assert not url or url not in server.log
