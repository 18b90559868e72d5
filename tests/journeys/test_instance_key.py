"""From a job: an instance that was launched with a key sees and stops itself, and nobody else."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.journeys.running import Server, Tenant, docker, environment
from tests.journeys.visiting import Person
from tests.journeys.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.databases("sqlite")]

FILE = "/.tidemill/instance/api"


def address() -> str:
    """An address of this machine that is not its loopback: containers reach it from any network."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return next(each for each in found if ":" not in each)


def listen_on_all(server: Server) -> Server:
    server.configure(host="0.0.0.0", instance_url=f"http://{address()}:{server.port}")

    def spawn() -> subprocess.Popen[bytes]:
        with server.log_file.open("ab") as log:
            return subprocess.Popen(
                server.command("serve", "--port", str(server.port)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

    server.spawn = spawn  # type: ignore[method-assign]
    return server.start()


def end(user: Tenant, *ids: str) -> None:
    for id in ids:
        user.do("terminate", id)
    for id in ids:
        until("it is released", lambda id=id: user.status(id) == "Released")


def test_an_instance_stops_itself(
    shared_deployment: Callable[..., Server], guest: Path, person: Person
) -> None:
    server = listen_on_all(shared_deployment(guest=guest))
    user = server.first_login()
    user.add_key(person.public_line)
    id, plain = user.launch(instanceKey=True, init="tidemill show --self"), user.launch()
    for each in (id, plain):
        user.wait(each, "Running")
    inside, beside = person.at(user, id), person.at(user, plain)

    assert inside.say(f"stat -c '%a %u' {FILE}") == "600 0\n"
    access = dict(line.split("=", 1) for line in inside.say(f"cat {FILE}").splitlines())
    assert list(access) == ["TIDEMILL_URL", "TIDEMILL_API_KEY", "TIDEMILL_INSTANCE"]
    assert access["TIDEMILL_INSTANCE"] == id
    key = access["TIDEMILL_API_KEY"]
    assert inside.say("tidemill show --self") == f"{id}  journey  Running\n"
    assert '"status":"Running"' in inside.say("tidemill show --self -o json")
    until("the init script found it too", lambda: f"{id}  journey" in user.logs(id), 20)
    inside.fails("tidemill show")
    as_nobody = "setpriv --reuid 65534 --clear-groups tidemill show --self"
    assert "only root" in inside.fails(as_nobody)

    assert beside.ssh(f"test -e {FILE}").returncode == 1
    assert "not found" in beside.fails("tidemill show --self")
    other = server.http.get(f"/api/instance/{plain}", headers={"X-API-Key": key})
    assert other.status_code == 404
    for what in (docker("inspect", user.container(id)), server.log, inside.say("env; cat /proc/*/cmdline")):
        assert key not in what

    server.stop()  # another process makes the same key again
    server.start()
    assert inside.ssh("tidemill restart --self").returncode in (0, 255)
    until("it runs again", lambda: len([e for e in user.events(id) if e["to"] == "Running"]) > 1, 60)
    user.wait(id, "Running")
    again = person.at(user, id)
    assert key in again.say(f"cat {FILE}")
    assert again.ssh("tidemill stop --self").returncode in (0, 255)
    user.wait(id, "Stopped")
    end(user, id, plain)
    refused = server.http.get("/api/user/me", headers={"X-API-Key": key})
    assert refused.status_code == 401
