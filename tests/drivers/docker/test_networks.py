"""Tenants reach their own by name, and nobody else's in any way."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from dataclasses import replace

import pytest
from tests.drivers.docker.world import BUSYBOX, World, docker, free_port, is_phase, until

from tidemill.drivers.contract import NoRoom, Port
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.model.observation import Phase

pytestmark = pytest.mark.docker


def address(world: World, workload: object) -> str:
    networks = world.inspect(workload)["NetworkSettings"]["Networks"]  # type: ignore[index,arg-type]
    return next(iter(networks.values()))["IPAddress"]


async def test_one_tenants_instances_reach_each_other_by_name(world: World, driver: DockerDriver) -> None:
    one, two = world.workload(hostname="first"), world.workload(hostname="second")
    await asyncio.gather(world.up(driver, one), world.up(driver, two))
    for name in ("first", one.id, address(world, one)):
        code, said = world.run_in(two, "sh", "-c", f"nc -w 3 {name} 22 </dev/null")
        assert said.startswith("SSH-"), f"{name}: {code} {said}"


async def test_another_tenants_are_out_of_reach(world: World, driver: DockerDriver) -> None:
    mine = world.workload(hostname="first")
    theirs = world.workload(tenant="bob", hostname="second")
    await asyncio.gather(world.up(driver, mine), world.up(driver, theirs))
    place = address(world, mine)
    assert place != address(world, theirs)
    for name in ("first", mine.id, world.container(mine)):
        code, said = world.run_in(theirs, "nslookup", name)
        assert code != 0, said
    # its ssh server listens there; from within the tenant it would answer at once
    code, said = world.run_in(theirs, "sh", "-c", f"nc -w 3 {place} 22 </dev/null")
    assert code != 0
    assert "SSH-" not in said
    assert world.run_in(mine, "sh", "-c", "nc -w 3 127.0.0.1 22 </dev/null")[1].startswith("SSH-")


async def test_they_stay_out_of_reach_while_networks_come_and_go(world: World, driver: DockerDriver) -> None:
    """The engine takes its own rules out and in with every network."""
    mine, theirs = world.workload(), world.workload(tenant="bob")
    await asyncio.gather(world.up(driver, mine), world.up(driver, theirs))
    place, deadline = address(world, mine), time.monotonic() + 60
    answered = f"nc -w 1 {place} 22 -e {BUSYBOX} sh -c 'echo through >&2' &"
    knock = f"for n in $(seq 8); do for m in $(seq 30); do {answered} usleep 20000; done; wait; done"
    command = ["docker", "exec", world.container(theirs), BUSYBOX, "sh", "-c", knock]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as knocking:
        while knocking.poll() is None and time.monotonic() < deadline:
            docker("network", "create", f"{world.deployment}-passing")
            docker("network", "rm", f"{world.deployment}-passing")
        said, _ = knocking.communicate()
    assert knocking.returncode == 0
    assert b"through" not in said
    assert said.count(b"nc: ") == 240, "each of them was turned away"


async def test_the_engines_socket_and_the_hosts_files_are_not_there(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload())
    for path in ("/var/run/docker.sock", str(world.data_dir), str(world.guest.folder)):
        assert world.run_in(workload, "test", "-e", path)[0] != 0


async def test_the_network_goes_with_its_last_member_even_a_stopped_one(
    world: World, driver: DockerDriver
) -> None:
    one, two = await asyncio.gather(*(world.up(driver, world.workload()) for _ in range(2)))
    await driver.ensure_stopped(two.id)
    await until(driver, two.id, is_phase(Phase.EXITED))
    await driver.ensure_absent(one.id)
    assert len(world.networks()) == 1, "the stopped instance needs it to start again"
    await driver.ensure_absent(two.id)
    assert world.left_over() == {}


async def test_leaving_and_joining_at_once(world: World, driver: DockerDriver) -> None:
    leaving = await world.up(driver, world.workload())
    for _ in range(3):
        joining = world.workload()
        await asyncio.gather(driver.ensure_absent(leaving.id), world.up(driver, joining))
        assert len(world.networks()) == 1
        leaving = joining


async def test_a_network_that_somebody_removed_is_made_again(world: World, driver: DockerDriver) -> None:
    first = await world.up(driver, world.workload())
    await driver.ensure_stopped(first.id)
    await until(driver, first.id, is_phase(Phase.EXITED))
    docker("network", "rm", *world.networks())
    second = await world.up(driver, replace(first, start=2))
    assert len(world.networks()) == 1
    other = await world.up(driver, world.workload(hostname="other"))
    assert world.run_in(other, "nslookup", second.hostname)[0] == 0


async def test_two_networks_of_one_name_become_one(world: World, driver: DockerDriver) -> None:
    for third in (1, 2):
        name = f"tidemill-{world.deployment}-alice"
        subnet = f"{world.pool.rsplit('.', 2)[0]}.{third}.0/24"
        body = {
            "Name": name,
            "CheckDuplicate": False,
            "Labels": {"tidemill.deployment": world.deployment, "tidemill.tenant": "alice"},
            "IPAM": {"Config": [{"Subnet": subnet}]},
        }
        done = await asyncio.create_subprocess_exec(
            "curl", "-sf", "--unix-socket", "/var/run/docker.sock", "-H", "Content-Type: application/json",
            "-d", json.dumps(body), "http://docker/v1.40/networks/create", stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await done.communicate()
        assert done.returncode == 0
    assert len(world.networks()) == 2
    workload = await world.up(driver, world.workload())
    assert len(world.networks()) == 1
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_more_tenants_than_dockers_own_pool_has_room_for(world: World, driver: DockerDriver) -> None:
    networks = driver._networks
    await asyncio.gather(*(networks.ensure(f"tenant-{number}") for number in range(40)))
    assert len(world.networks()) == 40
    await networks.sweep()
    assert world.networks() == []


async def test_a_pool_that_is_used_up(world: World) -> None:
    small = world.driver(network_pool="10.219.77.0/24")
    await small._networks.ensure("alice")
    with pytest.raises(NoRoom, match="tenant_networks"):
        await small.ensure_running(world.workload(tenant="bob"))


async def test_a_port_that_something_else_has(world: World, driver: DockerDriver) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    workload = world.workload(ports=(Port(22, port),))
    async with server:
        with pytest.raises(NoRoom, match=f"Port {port} of the machine"):
            await driver.ensure_running(workload)
        with pytest.raises(NoRoom, match=f"Port {port} of the machine"):
            await driver.ensure_running(workload)
    await world.up(driver, workload)


async def test_ports_are_published_on_one_address_only(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    bindings = world.inspect(workload)["NetworkSettings"]["Ports"]  # type: ignore[index]
    assert bindings["22/tcp"] == [  # type: ignore[index]
        {"HostIp": "127.0.0.1", "HostPort": str(workload.ports[0].node_port)}
    ]
