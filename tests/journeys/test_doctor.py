"""``tidemill doctor`` on the real engine: beside a running server, and without one."""

from __future__ import annotations

import json
import secrets
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.journeys.running import Server, Tenant, docker, environment, running_container
from tests.journeys.waiting import until

from tidemill.store.schema import nodes

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]


def doctor(server: Server, *words: str, code: int = 1, **settings: str) -> dict[str, Any]:
    """What the command says as JSON, under these settings; it must end with ``code``."""
    given = {f"TIDEMILL_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        server.command("doctor", "--json", *words),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment() | given,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def codes(said: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((one["code"], one["about"]) for one in said["findings"])


def quiet_ports() -> tuple[int, int]:
    """A range that no other test takes ports from: the doctor tells of every one that is taken."""
    low = 11_000 + secrets.randbelow(80) * 100
    return low, low + 99


def stranger() -> str:
    return f"notebook-{uuid.uuid4()}"


def plant(server: Server) -> dict[str, str]:
    """One of everything that a crash could leave: by kind, what the doctor calls it."""
    ours, image = f"tidemill.deployment={server.deployment}", "tidemill/debian:12"
    container, disk, folder, tenant = stranger(), stranger(), stranger(), str(uuid.uuid4())
    name = f"tidemill-{server.deployment}-{container}-1"
    docker(
        *("run", "--detach", "--name", name, "--label", ours, "--label", f"tidemill.instance={container}"),
        *("--label", f"tidemill.tenant={tenant}", "--network", "none", "--entrypoint", "sleep", image, "600"),
    )
    by_hand = f"by-hand-{container[-8:]}"
    docker("create", "--name", by_hand, "--label", ours, "--network", "none", image, "true")
    network = f"tidemill-{server.deployment}-{tenant}"
    docker("network", "create", "--label", ours, "--label", f"tidemill.tenant={tenant}", network)
    tag = f"tidemill-{server.deployment}/{disk}:2"
    docker("tag", image, tag)
    for place in ("disks", "mounts", "instances"):
        (server.folder / place).mkdir(mode=0o700, exist_ok=True)
    file, mount = server.folder / "disks" / f"{disk}.img", server.folder / "mounts" / disk
    with file.open("wb") as made:
        made.truncate(8 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(file)], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", str(file), str(mount)], check=True)
    (server.folder / "instances" / folder).mkdir()
    (server.folder / "instances" / folder / "init_script").write_text("a secret of somebody\n")
    return {
        "instance": f"instance {container}",
        "container": f"container {by_hand}",
        "network": f"network {network}",
        "system image": f"system image {tag}",
        "disk": f"disk {file}",
        "mount": f"mount {mount}",
        "loop device": f"loop device {file}",
        "folder": f"folder {server.folder / 'instances' / folder}",
    }


@pytest.fixture(scope="module")
def server(shared_deployment: Callable[..., Server], guest: Path) -> Server:
    """A server that leaves orphans alone for an hour."""
    settings = {"orphan_grace": 3600}
    return shared_deployment("doctor", guest=guest, settings=settings, ports=quiet_ports()).start()


@pytest.fixture(scope="module")
def tenant(server: Server) -> Tenant:
    return server.first_login()


def test_beside_a_running_server_where_all_is_well(server: Server, tenant: Tenant) -> None:
    id = tenant.launch(disk=1)
    tenant.wait(id, "Running")
    said = doctor(server, code=0)
    assert said["findings"] == []
    facts = [(one["label"], one["text"]) for one in said["facts"]]
    assert ("deployment", server.deployment) in facts
    assert server.process is not None
    assert any(f"held by process {server.process.pid}" in text for _, text in facts)
    assert any(label == "server" and f":{server.port}" in text for label, text in facts)
    version = docker("version", "--format", "{{.Server.Version}}")
    assert any(text == f"local: Docker {version}, 1 instances in the engine, 0 orphans" for _, text in facts)
    tenant.do("terminate", id)


def test_every_kind_of_leftover_is_found_and_removed_when_asked(server: Server, tenant: Tenant) -> None:
    id = tenant.launch(disk=1)
    tenant.wait(id, "Running")
    planted = plant(server)
    said = doctor(server)
    assert codes(said) == sorted(("orphan", f"local: {what}") for what in planted.values())
    assert "a secret of somebody" not in json.dumps(said)
    said = doctor(server, "--fix")
    assert said["done"] == [], "their grace is an hour"
    said = doctor(server, "--remove-orphans")
    assert {what.removeprefix("removed ") for what in said["done"]} == set(planted.values())
    assert doctor(server, code=0)["findings"] == []
    assert tenant.status(id) == "Running"
    assert (
        len(docker("ps", "--quiet", "--filter", f"label=tidemill.deployment={server.deployment}").split())
        == 1
    )
    tenant.do("terminate", id)


def test_what_somebody_removed_is_found_without_a_server_and_brought_back_by_one(
    server: Server, tenant: Tenant
) -> None:
    id = tenant.launch()
    tenant.wait(id, "Running")
    server.stop()
    docker("rm", "--force", tenant_container(server, id))
    said = doctor(server)
    assert ("missing", id) in codes(said)
    assert {code for code, _ in codes(said)} <= {"missing", "workWaits"}
    facts = [(one["label"], one["text"]) for one in said["facts"]]
    assert ("server", "none gives a sign of life") in facts
    assert ("folder", f"{server.folder}, held by no server") in facts
    said = doctor(server, "--fix")
    assert said["done"] == ["1 instances are to be looked at, at once when a server runs"]
    server.start()
    until("it was brought back", lambda: "absent" in {line["event"] for line in tenant.events(id)}, 120)
    tenant.wait(id, "Running")
    assert doctor(server, code=0)["findings"] == []
    tenant.do("terminate", id)


def test_what_was_stopped_by_us_and_started_by_hand(server: Server, tenant: Tenant) -> None:
    id = tenant.launch()
    tenant.wait(id, "Running")
    tenant.do("stop", id)
    tenant.wait(id, "Stopped")
    server.stop()
    docker("start", tenant_container(server, id))
    assert ("runsThoughStopped", id) in codes(doctor(server))
    server.start()
    until("it is stopped again", lambda: not running_container(id), 200)
    until("nothing is wrong any more", lambda: doctor_is_content(server), 200, pause=1)
    tenant.do("terminate", id)


def test_sums_and_a_port_that_somebody_else_has(server: Server, tenant: Tenant) -> None:
    with server.database() as database:
        database.run(lambda c: c.execute(update(nodes).values(cpu_used=nodes.c.cpu_used + 250)))
    assert codes(doctor(server)) == [("reservationSum", "node local")]
    assert doctor(server, "--fix")["done"] == ["counted anew what is given of node local"]
    port = server.ports[0] + 7
    name = f"somebody-{server.deployment}"
    docker(
        "run",
        "--detach",
        "--name",
        name,
        "--publish",
        f"127.0.0.1:{port}:80",
        "tidemill/debian:12",
        "sleep",
        "60",
    )
    try:
        assert codes(doctor(server)) == [("portTaken", f"node port {port}")]
    finally:
        docker("rm", "--force", name)
    assert doctor(server, code=0)["findings"] == []


def test_as_text_and_where_nothing_can_be_looked_at(server: Server, tmp_path: Path) -> None:
    assert server.tidemill("doctor").stdout.endswith("Nothing is wrong.\n")
    done = subprocess.run(
        [*server.command("doctor")[:-1], str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no deployment" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_an_engine_that_is_away(server: Server, tmp_path: Path) -> None:
    said = doctor(server, docker_url=f"unix://{tmp_path}/no.sock")
    assert codes(said) == [("engineUnreachable", "local")]
    assert "start it with" in said["findings"][0]["meaning"]


def test_the_server_itself_removes_leftovers_after_their_grace(
    deployment: Callable[..., Server], guest: Path
) -> None:
    settings = {"full_pass": 2, "orphan_grace": 3}
    server = deployment("grace", guest=guest, settings=settings, ports=quiet_ports()).start()
    tenant = server.first_login()
    id = tenant.launch(disk=1)
    tenant.wait(id, "Running")
    plant(server)

    def metrics() -> str:
        return server.http.get("/metrics").text

    until("something of it was removed", lambda: "tidemill_orphans_removed_total{" in metrics(), 120)
    until("all of it was removed", lambda: 'tidemill_orphans{region="local"} 0' in metrics(), 120)
    until("nothing is wrong any more", lambda: doctor_is_content(server), 60, pause=1)
    assert tenant.status(id) == "Running"
    server.terminate_all(tenant)
    server.stop()
    assert not server.leftovers(), server.leftovers()


def tenant_container(server: Server, id: str) -> str:
    labels = ("--filter", f"label=tidemill.instance={id}")
    (name,) = docker("ps", "--all", *labels, "--format", "{{.Names}}").split()
    return name


def doctor_is_content(server: Server) -> bool:
    done = subprocess.run(server.command("doctor"), capture_output=True, check=False, env=environment())
    return done.returncode == 0
