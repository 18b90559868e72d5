"""Data disks: reserved, limited, kept, and never mistaken for one another."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.drivers.docker.world import World, docker, is_phase, is_reachable, until

from tidemill.drivers.contract import NoRoom, Refused, Unreachable
from tidemill.drivers.docker import disks
from tidemill.drivers.docker.disks import GB, Disks
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.model.observation import Phase

pytestmark = pytest.mark.docker


async def test_writing_past_its_size_fails_inside_and_spares_the_host(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    file = world.data_dir / "disks" / f"{workload.id}.img"
    reserved = file.stat().st_blocks
    code, said = world.run_in(workload, "dd", "if=/dev/zero", "of=/root/dataDisk/big", "bs=1M", "count=1200")
    assert code != 0
    assert "No space left" in said
    assert file.stat().st_blocks <= reserved
    beside = int(docker("inspect", "--size", "--format", "{{.SizeRw}}", world.container(workload)))
    assert beside < 10e6, "it went to the host's disk"
    code, said = world.run_in(workload, "df", "-k", "/root/dataDisk")
    total = int(said.splitlines()[-1].split()[1]) * 1024
    assert 0.85 * GB < total <= GB


async def test_its_whole_size_is_reserved(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    file = world.data_dir / "disks" / f"{workload.id}.img"
    assert file.stat().st_size == GB
    assert file.stat().st_blocks * 512 >= GB


async def test_it_outlives_stop_restart_and_the_loss_of_the_container(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    world.run_in(workload, "sh", "-c", "echo kept >/root/dataDisk/file; echo kept >/root/other")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    second = await world.up(driver, replace(workload, start=2))
    assert world.run_in(second, "cat", "/root/dataDisk/file", "/root/other")[1] == "kept\nkept\n"
    subprocess.run(["docker", "rm", "-f", world.container(second)], check=True, capture_output=True)
    third = await world.up(driver, replace(workload, start=3))
    assert world.run_in(third, "cat", "/root/dataDisk/file")[1] == "kept\n"
    assert world.run_in(third, "cat", "/root/other")[0] != 0


async def test_it_is_mounted_again_after_the_host_was_restarted(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    world.run_in(workload, "sh", "-c", "echo kept >/root/dataDisk/file")
    subprocess.run(["docker", "kill", world.container(workload)], check=True, capture_output=True)
    subprocess.run(["umount", world.data_dir / "mounts" / workload.id], check=True)
    again = world.driver()
    second = await world.up(again, replace(workload, start=2))
    assert world.run_in(second, "cat", "/root/dataDisk/file")[1] == "kept\n"


async def test_a_container_never_starts_on_a_disk_that_is_not_mounted(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    subprocess.run(["docker", "kill", world.container(workload)], check=True, capture_output=True)
    subprocess.run(["umount", world.data_dir / "mounts" / workload.id], check=True)
    done = subprocess.run(["docker", "start", world.container(workload)], check=False, capture_output=True)
    assert done.returncode != 0


async def test_one_that_is_in_use_is_neither_checked_nor_mounted_again(
    world: World, driver: DockerDriver
) -> None:
    """Unmounted on the host, it is still mounted in its container: to repair it there would ruin it."""
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    world.run_in(workload, "sh", "-c", "echo kept >/root/dataDisk/file")
    subprocess.run(["umount", world.data_dir / "mounts" / workload.id], check=True)
    with pytest.raises(Unreachable, match="in use"):
        await Disks(world.data_dir).ensure(workload.id, 1)
    assert world.mounts() == []
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    second = await world.up(driver, replace(workload, start=2))
    assert world.run_in(second, "cat", "/root/dataDisk/file")[1] == "kept\n"


async def test_what_a_killed_server_began_to_check_is_not_checked_beside_it(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    subprocess.run(["umount", world.data_dir / "mounts" / workload.id], check=True)
    file = world.data_dir / "disks" / f"{workload.id}.img"
    theirs = os.open(file, os.O_RDONLY)  # as a tool has it that outlived its server
    fcntl.flock(theirs, fcntl.LOCK_EX)
    with pytest.raises(Unreachable, match="being checked"):
        await driver.ensure_running(replace(workload, start=2))
    os.close(theirs)
    await world.up(driver, replace(workload, start=2))


async def test_what_a_crash_left_half_made_is_made_again(world: World) -> None:
    made = Disks(world.data_dir)
    folder = world.data_dir / "disks"
    folder.mkdir()
    (folder / "notebook-a.new").write_bytes(b"half a file system")
    place = await made.ensure("notebook-a", 1)
    try:
        assert place.is_dir()
        assert not (folder / "notebook-a.new").exists()
        (place / "file").write_text("kept")
        assert await made.ensure("notebook-a", 1) == place
        subprocess.run(["umount", place.parent], check=True)
        assert not (place / "file").exists()
        await made.ensure("notebook-a", 5)  # whole: never formatted again, whatever is asked for
        assert (place / "file").read_text() == "kept"
    finally:
        await made.remove("notebook-a")
    await made.remove("notebook-a")
    assert world.left_over() == {}


async def test_a_half_made_disk_goes_with_its_instance(world: World, driver: DockerDriver) -> None:
    (world.data_dir / "disks").mkdir()
    (world.data_dir / "disks" / "notebook-b.new").write_bytes(b"half")
    await driver.ensure_absent("notebook-b")
    assert world.left_over() == {}


async def test_a_busy_disk_is_waited_for(world: World) -> None:
    made = Disks(world.data_dir)
    place = await made.ensure("notebook-c", 1)
    holder = subprocess.Popen(["sleep", "60"], cwd=place)
    removal = asyncio.create_task(made.remove("notebook-c"))
    await asyncio.sleep(0.3)
    assert not removal.done()
    holder.kill()
    holder.wait()
    await removal
    assert world.left_over() == {}


async def test_more_than_the_machine_has_is_no_room(world: World, driver: DockerDriver) -> None:
    workload = world.workload(data_disk_gb=10**6)
    with pytest.raises(NoRoom, match=r"\d+ GB left for data disks, 1000000 GB were asked for"):
        await driver.ensure_running(workload)
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_something_is_always_left_for_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs(world.data_dir)
    monkeypatch.setattr(disks, "SPARE", room.f_bavail * room.f_frsize - GB // 2)
    with pytest.raises(NoRoom, match="0 GB left"):
        await Disks(world.data_dir).ensure("notebook-d", 1)
    assert list((world.data_dir / "disks").iterdir()) == []


async def test_without_root_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="root"):
        await Disks(world.data_dir).ensure("notebook-e", 1)


async def test_without_the_tools_it_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disks, "_PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"mkfs\.ext4"):
        await Disks(world.data_dir).ensure("notebook-f", 1)
    assert list((world.data_dir / "disks").iterdir()) == []


async def test_size_0_is_a_folder_on_the_system_disk(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    assert world.run_in(workload, "touch", "/root/dataDisk/file")[0] == 0
    assert world.mounts() == []


async def test_a_restart_with_a_disk_needs_no_second_mount(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    await until(driver, workload.id, is_reachable(2), ask=replace(workload, start=2))
    assert len(world.mounts()) == len(world.loop_devices()) == 1
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}
