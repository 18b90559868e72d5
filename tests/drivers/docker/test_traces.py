"""What engine and machine keep beside instances: all of it is shown, and each kind can be removed."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.drivers.docker.world import World, docker, until

from tidemill.clock import SystemClock
from tidemill.drivers.contract import Refused, Reports, Trace, Traces
from tidemill.drivers.docker.driver import DockerDriver

pytestmark = pytest.mark.docker


def some_id() -> str:
    return f"notebook-{uuid.uuid4()}"


def put(folder: Path, name: str, size: int = 0) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / name
    file.write_bytes(bytes(size))
    return file


@pytest.fixture
def attached(world: World) -> Iterator[tuple[str, str]]:
    """A loop device on a disk that was removed since: the id, and the device."""
    id = some_id()
    file = put(world.data_dir / "disks", f"{id}.img", 2**20)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(file)], check=True, capture_output=True, text=True
    ).stdout.strip()
    file.unlink()
    yield id, device
    if world.loop_devices():
        subprocess.run(["losetup", "--detach", device], check=False)


async def kept(driver: DockerDriver) -> set[Trace]:
    assert isinstance(driver, Traces)
    return set(await driver.traces())


async def test_an_instance_in_use_shows_with_all_that_is_its_own(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    found = await kept(driver)
    assert {(trace.kind, trace.instance, trace.tenant) for trace in found} == {
        ("disk", workload.id, ""),
        ("mount", workload.id, ""),
        ("folder", workload.id, ""),
        ("loop device", workload.id, ""),
        ("network", "", "alice"),
    }
    await driver.ensure_absent(workload.id)
    assert await kept(driver) == set()


async def test_what_is_left_of_an_instance_goes_whatever_it_is(world: World, driver: DockerDriver) -> None:
    for kind, folder, name in (
        ("disk", "disks", "{}.img"),
        ("disk", "disks", "{}.new"),
        ("folder", "instances", "{}"),
        ("mount", "mounts", "{}"),
    ):
        id = some_id()
        if name == "{}":
            (world.data_dir / folder).mkdir(exist_ok=True)
            (world.data_dir / folder / id).mkdir()
        else:
            put(world.data_dir / folder, name.format(id), 4096)
        trace = Trace(kind, str(world.data_dir / folder / name.format(id)), id)
        assert driver.shows(trace.kind, trace.name)
        assert await kept(driver) == {trace}
        await driver.erase(trace)
        await driver.erase(trace)
        assert world.left_over() == {}


async def test_a_mounted_disk_of_nobody_is_unmounted_and_removed(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    docker("rm", "-f", world.container(workload))
    found = await kept(driver)
    assert {trace.kind for trace in found} == {"disk", "mount", "folder", "loop device", "network"}
    for trace in found:
        await driver.erase(trace)
    assert world.left_over() == {}


async def test_a_loop_device_without_its_file_is_let_go(
    world: World, driver: DockerDriver, attached: tuple[str, str]
) -> None:
    id, _ = attached
    (trace,) = await kept(driver)
    assert trace == Trace("loop device", str(world.data_dir / "disks" / f"{id}.img"), id)
    await driver.erase(trace)
    assert world.left_over() == {}


async def test_networks_and_images_and_strangers_show_and_go(world: World, driver: DockerDriver) -> None:
    id = some_id()
    ours = f"tidemill.deployment={world.deployment}"
    docker("tag", world.image, f"tidemill-{world.deployment}/{id}:3")
    docker(
        "network",
        "create",
        "--label",
        ours,
        "--label",
        "tidemill.tenant=bob",
        f"tidemill-{world.deployment}-bob",
    )
    docker("network", "create", "--label", ours, f"tidemill-{world.deployment}-nobody")
    stranger = f"by-hand-{id[-6:]}"
    docker(
        "create", "--name", stranger, "--label", ours, "--label", f"tidemill.instance={id}", world.image, "x"
    )
    found = await kept(driver)
    assert found == {
        Trace("system image", f"tidemill-{world.deployment}/{id}:3", id),
        Trace("network", f"tidemill-{world.deployment}-bob", tenant="bob"),
        Trace("network", f"tidemill-{world.deployment}-nobody"),
        Trace("container", stranger, id),
    }
    assert await driver.observe() == {}
    for trace in found:
        await driver.erase(trace)
        await driver.erase(trace)
    assert world.left_over() == {}
    assert docker("image", "inspect", "--format", "{{.Id}}", world.image)  # another name of it stays


async def test_what_lies_in_another_servers_folder_is_not_ours_to_judge(driver: DockerDriver) -> None:
    assert not driver.shows("disk", f"/somewhere/else/disks/{some_id()}.img")
    assert driver.shows("network", "tidemill-network")
    assert driver.shows("container", "by-hand")


async def test_a_network_that_came_into_use_stays(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    with pytest.raises(Refused, match="in use"):
        await driver.erase(Trace("network", f"tidemill-{world.deployment}-alice", tenant="alice"))
    assert len(world.networks()) == 1
    assert (await driver.observe())[workload.id].start == 1


@pytest.mark.parametrize("tenant", ["bob", ""])
async def test_a_network_that_the_engine_does_not_let_go_was_not_removed(
    world: World, driver: DockerDriver, tenant: str
) -> None:
    """As of one whose members the engine has lost count of: here somebody else's container has joined it."""
    workload = await world.up(driver, world.workload())
    name = f"tidemill-{world.deployment}-{tenant or 'nobody'}"
    labels = [f"tidemill.deployment={world.deployment}", *([f"tidemill.tenant={tenant}"] if tenant else [])]
    docker("network", "create", *(word for label in labels for word in ("--label", label)), name)
    docker("network", "connect", name, world.container(workload))
    trace = Trace("network", name, tenant=tenant)
    with pytest.raises(Refused, match=f"keeps the network {name}: .*active endpoints"):
        await driver.erase(trace)
    assert trace in await kept(driver)
    docker("network", "disconnect", name, world.container(workload))
    await driver.erase(trace)
    assert trace not in await kept(driver)


async def test_other_deployments_and_an_operators_own_files_are_not_ours(
    world: World, driver: DockerDriver
) -> None:
    id = some_id()
    put(world.data_dir / "disks", "backup.img")
    put(world.data_dir / "disks", "notebook-of-mine.img")
    (world.data_dir / "instances").mkdir()
    (world.data_dir / "instances" / "notes").mkdir()
    network = f"tidemill-other-{id[-8:]}"
    docker("network", "create", "--label", "tidemill.deployment=other", network)
    docker("tag", world.image, f"tidemill-{world.deployment}x/{id}:1")
    try:
        assert await kept(driver) == set()
    finally:
        docker("network", "rm", network)
        docker("rmi", f"tidemill-{world.deployment}x/{id}:1")


async def test_a_folder_that_is_marked_as_anothers_is_left_alone(world: World, driver: DockerDriver) -> None:
    """The database was lost and begun anew: its label is another, and these disks are somebody's."""
    put(world.data_dir / "disks", f"{some_id()}.img")
    assert len(await kept(driver)) == 1
    put(world.data_dir, "deployment").write_text("another\n")
    assert await kept(driver) == set()
    put(world.data_dir, "deployment").write_text(f"{world.deployment}\n")
    assert len(await kept(driver)) == 1


async def test_what_a_crash_left_of_a_move_shows_with_its_instance(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload())
    docker("commit", world.container(workload), f"tidemill-{world.deployment}/{workload.id}:2")
    assert Trace("system image", f"tidemill-{world.deployment}/{workload.id}:2", workload.id) in await kept(
        driver
    )
    docker("commit", world.container(workload))  # as by a server that was killed before it gave the name
    assert sum(trace.kind == "system image" for trace in await kept(driver)) == 2
    docker("rm", "-f", world.container(workload))
    await until(driver, workload.id, lambda seen: seen is None)
    await driver.ensure_absent(workload.id)
    assert await kept(driver) == set()


async def test_the_engine_says_how_it_is(driver: DockerDriver) -> None:
    assert isinstance(driver, Reports)
    report = await driver.report()
    assert report.version == "Docker " + docker("version", "--format", "{{.Server.Version}}")
    assert report.folder == docker("info", "--format", "{{.DockerRootDir}}")
    assert report.free_gb is not None
    assert report.at is not None
    assert abs((report.at - SystemClock().now()).total_seconds()) < 60
