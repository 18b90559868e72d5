"""Bad days: the engine is away or slow, the disk is full, ports run out, processes are killed.

Each has a message that says who must act, and afterwards nothing is lost, doubled or left over.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journeys.engine_proxy import EngineProxy
from tests.journeys.running import SMALL, Server, Tenant, docker, environment, running_container
from tests.journeys.visiting import Person
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow]

BASE = {"name": "Debian 12", "reference": "tidemill/debian:12"}


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[EngineProxy]:
    made = EngineProxy(tmp_path / "engine.sock")
    yield made
    made.close()


def containers_of(id: str) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label=tidemill.instance={id}").split()


def nothing_is_left(server: Server, *tenants: Tenant) -> None:
    server.terminate_all(*tenants)
    until("nothing is left", lambda: not server.leftovers(), 15)


def test_no_engine_then_an_engine_then_none_then_a_slow_one(
    deployment: Callable[..., Server], guest: Path, person: Person, proxy: EngineProxy
) -> None:
    """One server through the life of its engine, while a user's wishes wait and come true."""
    server = deployment(
        guest=guest,
        settings={"docker_url": proxy.url, "starting_deadline": 600, "stopping_deadline": 3},
    ).start()
    user = server.first_login()
    user.add_key(person.public_line)

    # Never there so far: it serves, and says so to the operator and to whoever wants to launch.
    said = server.ready()
    assert said.status_code == 503
    assert f"The container engine at {proxy.url} does not answer" in said.json()["message"]
    assert "systemctl start docker" in said.json()["message"]
    refused = user.ask("POST", "/api/instance/create", user.request())
    assert (refused.status_code, refused.json()["error"]) == (503, "regionUnavailable")
    assert 'No machine of the region "local" has answered yet' in refused.json()["message"]

    # It comes: ready, and launches are taken.
    proxy.up()
    until("the server is ready", lambda: server.ready().status_code == 200, 20)
    first = until("a launch is taken", lambda: _launched(user, "first"), 20)
    user.wait(first, "Running")

    # Not there at a later start: launches wait, and say what for.
    proxy.down()
    assert server.stop() == 0
    server.start()
    patient = user.launch(name="patient")
    until("it says what it waits for", lambda: _waits(user, patient), 20)
    assert user.status(patient) == "Initializing"
    proxy.up()
    user.wait(patient, "Running")
    assert user.runtime(patient)["diagnosisReason"] == ""
    user.do("terminate", patient)

    # Stopped while we run: sessions go on, the instance is not called dead, wishes wait.
    visit = person.at(user, first)
    containers = containers_of(first)
    proxy.down()
    until("the server says so", lambda: server.ready().status_code == 503, 20)
    assert visit.say("echo still here") == "still here\n"
    second = user.launch(name="later")
    user.do("stop", first)
    until(
        "both say what they wait for",
        lambda: all(_waits(user, id) for id in (first, second)),
        20,
    )
    assert (user.status(first), user.status(second)) == ("Stopping", "Initializing")
    logs = user.ask("GET", f"/api/instance/{first}/logs")
    assert (logs.status_code, "try again later" in logs.json()["message"]) == (503, True)
    assert not [each for each in user.events(first) if each["event"] in ("exited", "absent")]
    proxy.up()
    user.wait(first, "Stopped")
    user.wait(second, "Running")
    assert containers_of(first) == containers
    assert user.runtime(first)["diagnosisReason"] == ""

    # Slow: everything takes longer and comes to the same end, once.
    proxy.delay = 0.7
    user.do("start", first)
    user.wait(first, "Running", 60)
    assert visit.say("echo back") == "back\n"
    assert len(containers_of(first)) == 1

    # Hanging: accepted and never answered. Asking the server is as quick as ever.
    proxy.delay = proxy.forever
    user.do("restart", second)
    assert user.status(second) == "Restarting"
    assert server.ready().status_code == 503
    user.do("terminate", second)
    proxy.delay = 0.0
    until("it is released", lambda: user.status(second) == "Released", 90)
    nothing_is_left(server, user)
    assert "Traceback" not in server.log
    assert server.log.count("the engine gives no answer") < 20, "once for each silence, not for each look"


def _waits(user: Tenant, id: str) -> bool:
    runtime = user.runtime(id)
    told = (runtime["diagnosisReason"], runtime["diagnosisMessage"])
    return told == ("EngineUnreachable", "The machine gives no answer at present; it is being tried again")


def _launched(user: Tenant, name: str) -> str | None:
    answer = user.ask("POST", "/api/instance/create", user.request(name=name))
    return answer.json()["instanceId"] if answer.status_code == 200 else None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 GB that is this test's alone."""
    image, mount = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(3 * 10**9)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    yield mount
    subprocess.run(["umount", mount], check=True)
    image.unlink()


def fill(ballast: Path) -> None:
    """Make a file of all the space that its file system has left."""
    with ballast.open("wb", buffering=0) as file:
        room = os.statvfs(ballast)
        size = room.f_bavail * room.f_frsize - 2**26
        os.posix_fallocate(file.fileno(), 0, size)
        file.seek(size)
        with contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass


@pytest.mark.databases("sqlite")  # what is full is the disk of its file
def test_full_disk(small_disk: Path, deployment: Callable[..., Server], guest: Path, person: Person) -> None:
    """Too large a disk is refused with the numbers; a full one stops launches, and loses nothing."""
    server = deployment(str(small_disk / "data"), guest=guest).start()
    user = server.first_login()
    user.add_key(person.public_line)
    kept = user.launch(name="kept", disk=1)
    user.wait(kept, "Running")
    visit = person.at(user, kept)
    visit.say("echo precious > /root/dataDisk/precious && sync")

    large = user.launch(name="large", disk=900)
    until("the large one failed", lambda: user.status(large) == "InitializationFailed")
    runtime = user.runtime(large)
    assert runtime["diagnosisReason"] == "NoRoom"
    assert runtime["diagnosisMessage"].endswith("900 GB were asked for"), runtime

    ballast = small_disk / "ballast"
    fill(ballast)
    answers = [user.ask("POST", "/api/instance/create", user.request(name=f"n{n}")) for n in range(3)]
    for answer in answers:
        assert answer.status_code in (200, 503), answer.text
        if answer.status_code == 503:
            assert answer.json()["error"] == "databaseUnavailable"
            assert "database or disk is full" in server.log
    accepted = [answer.json()["instanceId"] for answer in answers if answer.status_code == 200]
    assert visit.say("cat /root/dataDisk/precious") == "precious\n"
    assert user.status(kept) == "Running"

    ballast.unlink()
    after = until("launches are taken again", lambda: _launched(user, "after"), 20)
    user.wait(after, "Running")
    for id in accepted:  # whatever was answered with an id is there, and ended well or said why
        until(
            "it has come to an end",
            lambda id=id: user.status(id) in ("Running", "InitializationFailed", "StartingFailed"),
        )
        assert user.status(id) == "Running" or user.runtime(id)["diagnosisMessage"]
    assert visit.say("cat /root/dataDisk/precious") == "precious\n"
    nothing_is_left(server, user)


def _static_image() -> str:
    """An image that holds one static program and nothing else, not even a folder."""
    content = Path("/bin/busybox").read_bytes() if Path("/bin/busybox").exists() else b"\x7fELF"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("program")
        entry.mode, entry.size = 0o755, len(content)
        tar.addfile(entry, io.BytesIO(content))
    name = f"tidemill-test-journeys/{uuid.uuid4().hex[:12]}:1"
    docker("import", "--change", 'CMD ["/program"]', "-", name, input=archive.getvalue())
    return name


@pytest.fixture(scope="module")
def odd_images() -> Iterator[dict[str, str]]:
    program = _static_image()
    yield {"program": program, "missing": f"127.0.0.1:9/{uuid.uuid4().hex}:1"}
    docker("image", "rm", program)


@pytest.fixture(scope="module")
def server(shared_deployment: Callable[..., Server], guest: Path, odd_images: dict[str, str]) -> Server:
    """One server for the days that are bad for an instance only; it has ten ports to give."""
    images = [BASE, *({"name": name, "reference": reference} for name, reference in odd_images.items())]
    made = shared_deployment(
        "shared",
        guest=guest,
        settings={"pulling_deadline": 6, "restart_pause": 0.5, "restart_pause_most": 60},
        tables={"image": images, "type": [SMALL]},
    )
    made.ports = (made.ports[0], made.ports[0] + 9)
    made.configure(node_ports=f"{made.ports[0]}-{made.ports[1]}")
    return made.start()


@pytest.fixture
def user(server: Server, person: Person) -> Iterator[Tenant]:
    tenant = server.add_tenant(f"user-{uuid.uuid4().hex[:8]}")
    tenant.add_key(person.public_line)
    yield tenant
    nothing_is_left(server, tenant)


def test_ports_run_out(user: Tenant) -> None:
    held = user.launch(nodePorts=[80, 81, 82, 83, 84, 85, 86])
    refused = user.ask("POST", "/api/instance/create", user.request(nodePorts=[80, 81]))
    assert refused.status_code == 503
    assert refused.json()["error"] == "nodePortsUsedUp"
    assert "node_ports" in refused.json()["message"]
    pager = {"pager": {"currentPage": 1, "pageSize": 10}}
    assert user.post("/api/instance/list", pager)["pager"]["totalEntries"] == 1, "the refused one is nowhere"
    user.do("terminate", held)
    again = until("there are ports again", lambda: _launched(user, "again"), 20)
    user.wait(again, "Running")


def test_an_image_that_is_nowhere(user: Tenant) -> None:
    """The engine's own words while it is tried, then a failure that keeps them."""
    id = user.launch(image="missing")

    def backs_off() -> dict[str, str] | None:
        runtime = user.runtime(id)
        return runtime if runtime["diagnosisReason"] == "BackOff" else None

    runtime = until("it backs off", backs_off, 15)
    assert (runtime["status"], runtime["phase"]) == ("PullingImage", "DownloadImage")
    assert "127.0.0.1:9" in runtime["diagnosisMessage"]
    until("it has failed", lambda: user.status(id) == "InitializationFailed", 20)
    message = user.runtime(id)["diagnosisMessage"]
    assert message.startswith("The image 127.0.0.1:9/")
    assert "could not be fetched within 6 s" in message
    assert "refused" in message, "the engine's words"
    user.do("terminate", id)
    until("it is released", lambda: user.status(id) == "Released")


def test_an_image_with_one_program_and_no_shell(user: Tenant, person: Person) -> None:
    id = user.launch(image="program", disk=1, init="echo ran with $0 > /root/dataDisk/init")
    user.wait(id, "Running")
    visit = person.at(user, id)
    assert visit.say("id -u; ls -d /program").split() == ["0", "/program"]
    # Which is told before it is Running where the machine is busy.
    until("the init script ended", lambda: "initScriptEnded" in {line["event"] for line in user.events(id)})
    assert visit.say("cat /root/dataDisk/init").startswith("ran with")
    visit.copy(Path(__file__), ":/root/copied")
    assert visit.say("cat /root/copied") == Path(__file__).read_text()


def test_a_main_process_that_dies_again_and_again(user: Tenant) -> None:
    """Started again with a growing pause, which it says; a terminate in between is at once."""
    id = user.launch()
    user.wait(id, "Running")
    messages: list[str] = []
    for number in range(3):
        container = until("its container runs", lambda: running_container(id), 20)
        docker("kill", "--signal", "KILL", container)
        until("its death is told", lambda n=number: len(_deaths(user, id)) > n, 15)
        messages.append(_deaths(user, id)[-1]["message"])
    for message, pause in zip(messages, ("0.5", "1", "2"), strict=True):
        assert "exit code 137" in message
        assert message.endswith(f"started again in {pause} s"), messages
    assert user.status(id) == "Restarting"
    assert "exit code 137" in user.runtime(id)["diagnosisMessage"]
    user.do("terminate", id)
    until("it is released", lambda: user.status(id) == "Released", 10)


def _deaths(user: Tenant, id: str) -> list[dict[str, str]]:
    return [each for each in user.events(id) if each["event"] == "exited"]


def test_terminate_in_every_state(user: Tenant) -> None:
    """At once, twice, and whatever goes on at that moment."""
    ids = {
        "as soon as it is accepted": user.launch(disk=1),
        "while its image is pulled": user.launch(image="missing"),
        "while it runs": user.launch(),
    }
    user.do("terminate", ids["as soon as it is accepted"])
    until("it pulls", lambda: user.status(ids["while its image is pulled"]) == "PullingImage")
    user.do("terminate", ids["while its image is pulled"])
    user.wait(ids["while it runs"], "Running")
    user.do("terminate", ids["while it runs"])
    again = user.ask("POST", "/api/instance/terminate", {"instanceId": ids["while it runs"]})
    assert again.status_code in (200, 404)

    ids |= {"while it stops": user.launch(), "while it restarts": user.launch(), "stopped": user.launch()}
    for name in ("while it stops", "while it restarts", "stopped"):
        user.wait(ids[name], "Running")
    user.do("stop", ids["stopped"])
    user.wait(ids["stopped"], "Stopped")
    user.do("terminate", ids["stopped"])
    user.do("stop", ids["while it stops"])
    user.do("terminate", ids["while it stops"])
    user.do("restart", ids["while it restarts"])
    user.do("terminate", ids["while it restarts"])
    for name, id in ids.items():
        until(f"terminated {name}, it is released", lambda id=id: user.status(id) == "Released", 30)
        assert containers_of(id) == []


def test_killed_in_the_middle_of_launches(
    deployment: Callable[..., Server], guest: Path, person: Person
) -> None:
    """SIGKILL at whatever step each launch is in; the next server brings each up once."""
    server = deployment(guest=guest, settings={"lease": 5}).start()
    user = server.first_login()
    user.add_key(person.public_line)
    ids = [user.launch(name=f"n{number}", disk=number % 2) for number in range(4)]
    until("one of them has a container", lambda: any(containers_of(id) for id in ids), 20)
    server.stop(signal.SIGKILL)
    server.start()
    for id in ids:
        user.wait(id, "Running", 60)
    for id in ids:
        assert len(containers_of(id)) == 1
        assert person.at(user, id).say("echo alive") == "alive\n"
    # A second server on the same folder would do everything twice: it says who has it, and ends.
    assert server.process is not None
    refused = subprocess.run(
        server.command("serve", "--host", "127.0.0.1", "--port", "1"),
        capture_output=True, text=True, timeout=30, check=False, env=environment(),
    )  # fmt: skip
    assert refused.returncode == 1
    assert f"(process {server.process.pid})" in refused.stderr
    assert str(server.folder) in refused.stderr
    # Instances go on while no server runs, and a stop in time leaves no lease to wait for.
    visit = person.at(user, ids[0])
    assert server.stop() == 0
    assert visit.say("echo alive") == "alive\n"
    server.start()
    user.do("terminate", ids[0])
    until("it is released", lambda: user.status(ids[0]) == "Released", 10)
    nothing_is_left(server, user)
