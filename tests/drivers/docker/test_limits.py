"""What an instance is given is all that it gets."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.drivers.docker.world import BUSYBOX, World, is_phase, until

from tidemill.drivers.contract import Device, Refused
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.model.observation import Phase

pytestmark = pytest.mark.docker


async def test_processes_are_limited(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(pids=40))
    script = "i=0; while [ $i -lt 60 ]; do /.tidemill/bin/busybox sleep 20 & i=$((i+1)); done"
    code, said = world.run_in(workload, "sh", "-c", script)
    assert code != 0
    assert re.search("fork|resource|unavailable", said, re.IGNORECASE)


async def test_memory_is_limited_and_its_end_is_told(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(memory_mb=48))
    # tail keeps a line without an end in memory
    code, _ = world.run_in(workload, "tail", "/dev/zero")
    assert code == 137
    # The kernel chose the greedy process; the instance itself goes on.
    assert (await driver.observe())[workload.id].phase is Phase.REACHABLE


async def test_cpu_and_shm(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(cpu=0.25, shm_mb=10))
    assert world.inspect(workload)["HostConfig"]["NanoCpus"] == 250_000_000  # type: ignore[index]
    _, said = world.run_in(workload, "df", "-k", "/dev/shm")
    assert " 10240 " in said


async def test_more_cores_than_there_are_is_refused(world: World, driver: DockerDriver) -> None:
    with pytest.raises(Refused, match=r"CPUs"):
        await driver.ensure_running(world.workload(cpu=100_000))


async def test_rights_are_few(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    for command in (
        ("mount", "-t", "tmpfs", "none", "/tmp"),
        ("mknod", "/tmp/disk", "b", "8", "0"),
        ("touch", "/.tidemill/init"),
        ("touch", "/.tidemill/instance/authorized_keys"),
        ("hostname", "other"),
    ):
        code, said = world.run_in(workload, *command)
        assert code != 0, f"{command} was allowed: {said}"
    _, status = world.run_in(workload, "cat", "/proc/self/status")
    assert re.search(r"NoNewPrivs:\s+1", status)
    _, pids = world.run_in(workload, "ls", "/proc")
    assert sum(name.isdigit() for name in pids.split()) < 20, "the host's processes are seen"


async def test_devices_are_those_that_were_given(world: World, driver: DockerDriver) -> None:
    nodes = [Device("full-0", "FULL", ("/dev/full",)), Device("null-0", "NULL", ("/dev/null",))]
    with_devices = world.driver(devices=nodes)
    assert (await with_devices.nodes())[0].devices == tuple(nodes)
    given = Device("loop-control", "STANDIN", ("/dev/loop-control",))
    having = await world.up(driver, world.workload(devices=(given,)))
    without = await world.up(driver, world.workload())
    assert world.run_in(having, "test", "-c", "/dev/loop-control")[0] == 0
    assert world.run_in(without, "test", "-e", "/dev/loop-control")[0] == 1


async def test_a_device_that_is_not_there_is_refused(world: World, driver: DockerDriver) -> None:
    gone = Device("gone", "GONE", ("/dev/tidemill-no-such-device",))
    with pytest.raises(Refused, match="no-such-device"):
        await driver.ensure_running(world.workload(devices=(gone,)))


async def test_its_own_files_are_private_on_the_host(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(authorized_keys=("ssh-ed25519 AAAA one",)))
    folder = Path(world.data_dir, "instances", workload.id)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


async def test_the_main_process_runs_out_of_memory(world: World) -> None:
    greedy = world.driver(guest=replace(world.guest, command=(BUSYBOX, "tail", "/dev/zero")))
    workload = world.workload(memory_mb=32)
    await greedy.ensure_running(workload)
    seen = await until(greedy, workload.id, is_phase(Phase.EXITED))
    assert seen is not None
    assert (seen.start, seen.exit_code) == (1, 137)
    assert seen.reason in {"OOMKilled", "Killed"}  # some kernels do not tell some engines
    assert "32 MiB" in seen.message


async def test_a_guest_that_cannot_run_in_the_image_is_refused(world: World) -> None:
    broken = world.driver(guest=replace(world.guest, command=("/no/such/program",)))
    with pytest.raises(Refused, match="/no/such/program"):
        await broken.ensure_running(world.workload())
