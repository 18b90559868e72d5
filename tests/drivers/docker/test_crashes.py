"""Half-made states, as a server that was killed leaves them, and an engine that is not there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiodocker.exceptions import DockerError
from tests.drivers.docker.world import World, docker, free_port, is_phase, is_reachable, until

from tidemill.drivers.contract import Device, DriverError, NoRoom, Port, Refused, Unreachable
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.images import Pulls
from tidemill.model.observation import Phase, Seen

pytestmark = pytest.mark.docker


async def created_only(world: World, workload: object) -> None:
    """A container that was made, by a server that was killed before it started it."""
    driver = world.driver()
    await driver._write_files(workload)  # type: ignore[arg-type]
    async with driver._networks.using("alice"):
        await driver._containers.create(workload)  # type: ignore[arg-type]


@pytest.mark.parametrize("disk", [0, 1])
async def test_killed_between_create_and_start(world: World, driver: DockerDriver, disk: int) -> None:
    workload = world.workload(data_disk_gb=disk)
    await created_only(world, workload)
    seen = (await driver.observe())[workload.id]
    assert (seen.start, seen.phase) == (1, Phase.CREATED)
    await world.up(driver, workload)
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_created_and_then_not_wanted(world: World, driver: DockerDriver) -> None:
    workload = world.workload()
    await created_only(world, workload)
    await driver.ensure_stopped(workload.id)
    assert (await driver.observe())[workload.id].phase is Phase.CREATED
    await world.up(driver, replace(workload, start=2))
    assert world.containers() == [world.container(workload, 2)]


async def test_killed_between_rename_and_start(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    world.run_in(workload, "touch", "/root/kept")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    docker("rename", world.container(workload), world.container(workload, 2) + ".starting")
    again = world.driver()
    seen = (await again.observe())[workload.id]
    assert (seen.start, seen.phase) == (2, Phase.CREATED), "the first start's end is not the second's"
    second = await world.up(again, replace(workload, start=2))
    assert world.run_in(second, "test", "-e", "/root/kept")[0] == 0


async def test_killed_between_start_and_rename(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    second = replace(workload, start=2)
    docker("rename", world.container(workload), world.container(second) + ".starting")
    again = world.driver()
    seen = (await again.observe())[workload.id]
    assert (seen.start, seen.phase) == (1, Phase.STARTED), "so that the second is asked for once more"
    await again.ensure_running(second)
    assert world.containers() == [world.container(second)]
    await until(again, workload.id, is_reachable(2))


async def test_killed_with_a_start_cut_short_then_stopped(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    docker("rename", world.container(workload), world.container(workload, 2) + ".starting")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.CREATED))
    await until(driver, workload.id, is_reachable(3), ask=replace(workload, start=3))


async def test_killed_between_container_and_the_rest(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    docker("rm", "-f", world.container(workload))
    again = world.driver()
    await again.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_removal_asked_for_many_times_at_once(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    other = world.driver()
    await asyncio.gather(*(one.ensure_absent(workload.id) for one in (driver, other, driver, other)))
    assert world.left_over() == {}


async def test_removal_while_it_is_being_stopped(world: World) -> None:
    patient = world.driver(stop_grace=60)
    workload = await world.up(patient, world.workload())
    docker("exec", "-d", world.container(workload), "/.tidemill/bin/busybox", "sh", "-c",
           "trap '' TERM; while :; do /.tidemill/bin/busybox sleep 1; done")  # fmt: skip
    await patient.ensure_stopped(workload.id)
    await patient.ensure_stopped(workload.id)
    await patient.ensure_running(workload)  # nothing is begun while the stop goes on
    async with asyncio.timeout(6.5):  # the guest itself gives what is deaf seven seconds
        await patient.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_a_newer_container_by_somebody_else_takes_nobodys_system_disk(
    world: World, driver: DockerDriver
) -> None:
    workload = await world.up(driver, world.workload())
    world.run_in(workload, "touch", "/root/kept")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    second = replace(workload, start=2)
    await created_only(world, second)
    await world.up(driver, second)
    assert world.run_in(second, "test", "-e", "/root/kept")[0] == 0
    assert world.containers() == [world.container(second)]


@pytest.mark.parametrize("has_run", [False, True])
async def test_a_container_that_the_engine_lost_sight_of_is_replaced(
    world: World, driver: DockerDriver, monkeypatch: pytest.MonkeyPatch, has_run: bool
) -> None:
    """What the engine says for ever of one that it was killed in the middle of starting."""
    workload = world.workload()
    if has_run:
        await world.up(driver, workload)
        world.run_in(workload, "touch", "/root/kept")
        await driver.ensure_stopped(workload.id)
        await until(driver, workload.id, is_phase(Phase.EXITED))
        workload = replace(workload, start=2)
    start, lost = Engine.start_container, set[str]()

    async def says(engine: Engine, id: str) -> None:
        if not lost or id in lost:
            lost.add(id)
            raise DockerError(500, f"task {id}: already exists")
        await start(engine, id)

    monkeypatch.setattr(Engine, "start_container", says)
    with pytest.raises(Unreachable, match="lost sight"):
        await driver.ensure_running(workload)
    await world.up(driver, workload)
    assert world.containers() == [world.container(workload)]
    assert world.run_in(workload, "test", "-e", "/root/kept")[0] == (0 if has_run else 1)
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_two_containers_of_one_instance_are_both_stopped(world: World, driver: DockerDriver) -> None:
    """As somebody makes who starts an old container by hand while a new one is there."""
    workload = await world.up(driver, world.workload())
    second = replace(workload, start=2, ports=(Port(22, free_port()),))
    async with driver._networks.using("alice"):
        container = await driver._containers.create(second)
        assert container is not None
        await driver._containers.start(container, second)
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    await driver.ensure_stopped(workload.id)
    running = f"label=tidemill.deployment={world.deployment}"
    assert docker("ps", "--quiet", "--filter", running) == ""
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_other_ports_and_devices_keep_the_system_disk(world: World, driver: DockerDriver) -> None:
    """A stopped instance may be given another GPU when it starts again."""
    workload = await world.up(driver, world.workload(data_disk_gb=1))
    world.run_in(workload, "sh", "-c", "echo system >/root/file; echo data >/root/dataDisk/file")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    device = Device("standin-1", "STANDIN", ("/dev/loop-control",))
    moved = replace(workload, start=2, ports=(Port(22, free_port()),), devices=(device,))
    await until(driver, workload.id, is_reachable(2), ask=moved)
    assert world.run_in(moved, "cat", "/root/file", "/root/dataDisk/file")[1] == "system\ndata\n"
    assert world.run_in(moved, "test", "-c", "/dev/loop-control")[0] == 0
    assert world.containers() == [world.container(moved)]
    back = replace(workload, start=3)
    on_the_way: list[Seen | None] = []
    await until(driver, workload.id, is_reachable(3), ask=back, seen_on_the_way=on_the_way)
    assert None not in on_the_way
    assert world.run_in(back, "cat", "/root/file")[1] == "system\n"
    assert world.run_in(back, "test", "-c", "/dev/loop-control")[0] == 1
    await driver.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_other_ports_keep_what_is_on_the_images_volumes(world: World, driver: DockerDriver) -> None:
    name = f"tidemill-test-driver/{world.deployment}:1"
    maker = docker("create", world.image, "/none")
    try:
        docker("commit", "--change", "VOLUME /keep", maker, name)
        workload = await world.up(driver, world.workload(image=name))
        volume = world.inspect(workload)["Mounts"]
        (volume,) = [mount["Name"] for mount in volume if mount["Type"] == "volume"]  # type: ignore[index,attr-defined]
        world.run_in(workload, "sh", "-c", "echo kept >/keep/file")
        for start in (2, 3):
            await driver.ensure_stopped(workload.id)
            await until(driver, workload.id, is_phase(Phase.EXITED))
            moved = replace(workload, start=start, ports=(Port(22, free_port()),))
            await until(driver, workload.id, is_reachable(start), ask=moved)
            assert world.run_in(moved, "cat", "/keep/file")[1] == "kept\n"
        await driver.ensure_absent(workload.id)
        assert world.left_over() == {}
        assert volume not in docker("volume", "ls", "--quiet").split()
    finally:
        docker("rm", "-fv", maker, check=False)
        await world.clean_up()
        docker("rmi", "-f", name, check=False)


async def test_a_working_folder_that_is_none_any_more_keeps_nobody_from_starting(
    world: World, driver: DockerDriver
) -> None:
    name = f"tidemill-test-driver/{world.deployment}:1"
    maker = docker("create", world.image, "/none")
    try:
        docker("commit", "--change", "WORKDIR /work", maker, name)
        workload = await world.up(driver, world.workload(image=name))
        world.run_in(workload, "sh", "-c", "rm -rf /work; echo file >/work")
        await driver.ensure_stopped(workload.id)
        await until(driver, workload.id, is_phase(Phase.EXITED))
        await world.up(driver, replace(workload, start=2))
    finally:
        docker("rm", "-fv", maker, check=False)
        await world.clean_up()
        docker("rmi", "-f", name, check=False)


async def test_killed_in_the_middle_of_such_a_move(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    world.run_in(workload, "sh", "-c", "echo system >/root/file")
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    moved = replace(workload, start=2, ports=(Port(22, free_port()),))
    # committed and created, the old container still there
    image = f"tidemill-{world.deployment}/{workload.id}"
    docker("commit", world.container(workload), f"{image}:2")
    async with driver._networks.using("alice"):
        await driver._containers.create(moved, image=f"{image}:2")
    again = world.driver()
    assert (await again.observe())[workload.id] == Seen(2, Phase.CREATED)
    # stopped and started once more before it ever ran: still the same disk
    await again.ensure_stopped(workload.id)
    third = replace(moved, start=3)
    await until(again, workload.id, is_reachable(3), ask=third)
    assert world.run_in(third, "cat", "/root/file")[1] == "system\n"
    assert world.containers() == [world.container(third)]
    await again.ensure_absent(workload.id)
    assert world.left_over() == {}


async def test_killed_between_the_copy_and_its_container(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    for _ in range(2):  # the first one loses its name to the second
        docker("commit", world.container(workload), f"tidemill-{world.deployment}/{workload.id}:2")
    moved = replace(workload, start=2, ports=(Port(22, free_port()),))
    again = world.driver()
    await until(again, workload.id, is_reachable(2), ask=moved)
    await again.ensure_absent(workload.id)
    assert world.left_over() == {}
    label = f"label=tidemill.deployment={world.deployment}"
    assert docker("images", "--quiet", "--filter", "dangling=true", "--filter", label) == ""


async def test_no_server_at_the_socket(world: World) -> None:
    with pytest.raises(
        Unreachable, match=r"does not answer; start it with `systemctl start docker`"
    ) as error:
        await world.driver(url="unix:///no/such.sock").observe()
    assert "unix:///no/such.sock" in str(error.value)
    with pytest.raises(Unreachable, match="does not answer"):
        await world.driver(url="tcp://127.0.0.1:9").observe()


@pytest.fixture
async def hanging(tmp_path: Path) -> AsyncIterator[str]:
    """An engine that takes calls and never answers them."""
    closing = asyncio.Event()

    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing.wait()
        writer.close()

    path = tmp_path / "hanging.sock"
    server = await asyncio.start_unix_server(never, path)
    yield f"unix://{path}"
    closing.set()
    server.close()


async def test_an_engine_that_hangs(world: World, hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.drivers.docker.engine.QUICK", 0.2)
    with pytest.raises(Unreachable, match="in time"):
        await world.driver(url=hanging).observe()


async def test_an_engine_that_talks_nonsense(world: World, tmp_path: Path) -> None:
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{nope")
        writer.close()

    path = tmp_path / "nonsense.sock"
    async with await asyncio.start_unix_server(nonsense, path):
        with pytest.raises(Unreachable):
            await world.driver(url=f"unix://{path}").observe()


async def test_a_pull_that_talks_nonsense_is_tried_again(world: World, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = b'{"ApiVersion": "1.41"}' if b"/version" in head else b'{"status": "Pulling"}\n{nope\n'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    path = tmp_path / "nonsense.sock"
    async with await asyncio.start_unix_server(answer, path):
        engine = Engine(f"unix://{path}")
        pulls = Pulls(engine, {}, lambda: None, pauses=(0.01, 0.02))
        pulls.want("image", "an-instance", 1)
        async with asyncio.timeout(60):
            while pulls._pulls["image"].failures < 2:
                await asyncio.sleep(0.01)
        seen = pulls.seen()["an-instance"]
        assert (seen.phase, seen.reason) == (Phase.PULLING, "BackOff")
        await pulls.close()
        await engine.close()


async def test_the_engine_comes_back(world: World, tmp_path: Path) -> None:
    """A driver made while Docker is down works once it is up, and changes() says when."""
    path = tmp_path / "docker.sock"
    driver = world.driver(url=f"unix://{path}")
    hint = asyncio.ensure_future(anext(driver.changes()))
    with pytest.raises(Unreachable):
        await driver.observe()
    path.symlink_to("/var/run/docker.sock")
    async with asyncio.timeout(60):
        await hint
    assert await driver.observe() == {}


async def test_an_image_that_does_not_exist_backs_off_and_says_why(world: World) -> None:
    driver = world.driver(pull_pauses=(0.1, 0.2))
    workload = world.workload(image="127.0.0.1:9/no/such:image")
    await driver.ensure_running(workload)
    seen = await until(driver, workload.id, lambda seen: seen is not None and seen.reason == "BackOff")
    assert seen is not None
    assert (seen.start, seen.phase) == (1, Phase.PULLING)
    assert "127.0.0.1:9" in seen.message
    await driver.ensure_running(workload)
    assert len(driver._pulls._pulls) == 1
    # It appears (an operator loads it): the next try finds it, or the next call does.
    docker("tag", world.image, workload.image)
    try:
        await driver.ensure_running(workload)
        await until(driver, workload.id, is_reachable(1), ask=workload)
        assert driver._pulls._pulls == {}
    finally:
        docker("rmi", workload.image)


async def test_a_pull_that_nobody_waits_for_is_given_up(world: World) -> None:
    driver = world.driver(pull_pauses=(0.1, 0.2))
    one, two = (world.workload(image="127.0.0.1:9/no/such:image") for _ in range(2))
    for workload in (one, two):
        await driver.ensure_running(workload)
    assert set(await driver.observe()) == {one.id, two.id}
    await driver.ensure_absent(one.id)
    assert set(await driver.observe()) == {two.id}
    await driver.ensure_stopped(two.id)
    assert await driver.observe() == {}
    assert driver._pulls._pulls == {}


async def test_a_bad_image_name_is_refused(world: World, driver: DockerDriver) -> None:
    with pytest.raises(Refused, match="reference"):
        await driver.ensure_running(world.workload(image="Not A Name"))


async def test_ids_that_would_leave_the_folder_are_refused(world: World, driver: DockerDriver) -> None:
    for id in ("../../etc", "a/b", "", "A", "."):
        for call in (driver.ensure_absent(id), driver.ensure_stopped(id)):
            with pytest.raises(Refused):
                await call
    assert world.data_dir.exists()


async def test_secrets_are_not_in_what_goes_wrong(world: World) -> None:
    driver = world.driver(url="unix:///no/such.sock", registries={"127.0.0.1:9": ("me", "s3cr3t-password")})
    workload = world.workload(
        image="127.0.0.1:9/x/y:1",
        init_script="s3cr3t-script",
        env={"A": "s3cr3t-env"},
        host_key=b"s3cr3t-k" * 4,
    )
    with pytest.raises(DriverError) as error:
        await driver.ensure_running(workload)
    assert "s3cr3t" not in str(error.value) + repr(workload)
    reachable = world.driver(registries={"127.0.0.1:9": ("me", "s3cr3t-password")}, pull_pauses=(0.1, 0.1))
    await reachable.ensure_running(workload)
    seen = await until(reachable, workload.id, lambda seen: seen is not None and seen.reason == "BackOff")
    assert "s3cr3t" not in repr(seen)


async def test_host_paths_are_kept_from_users(world: World) -> None:
    driver = world.driver(guest=replace(world.guest, folder=world.data_dir / "no-guest"))
    with pytest.raises(Refused, match="bind source path does not exist") as error:
        await driver.ensure_running(world.workload())
    assert str(world.data_dir) not in str(error.value)


async def test_the_engines_version_is_settled_once(world: World) -> None:
    engine = Engine("unix:///var/run/docker.sock")
    try:
        await asyncio.gather(*(engine.info() for _ in range(5)))
    finally:
        await engine.close()


async def test_full_logs_and_following(world: World, driver: DockerDriver) -> None:
    workload = world.workload(init_script="i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done")
    await until(driver, workload.id, lambda seen: seen is not None and seen.init_exit == 0, ask=workload)
    read = b""
    async for chunk in driver.logs(workload.id, follow=False, tail=None):
        read += chunk
    assert [line for line in read.splitlines() if line.startswith(b"line")] == [
        b"line %d" % number for number in range(3000)
    ]
    follower = driver.logs(workload.id, follow=True, tail=1)
    async with asyncio.timeout(60):
        assert await anext(follower)
        await driver.ensure_absent(workload.id)
        async for _ in follower:  # ends with the instance
            pass


async def test_what_an_instance_prints_cannot_fill_the_host(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    kept = world.inspect(workload)["HostConfig"]["LogConfig"]  # type: ignore[index]
    assert kept == {"Type": "json-file", "Config": {"max-file": "2", "max-size": "10m"}}


async def test_a_folder_of_the_server_that_is_gone_is_made_again(world: World, driver: DockerDriver) -> None:
    workload = await world.up(driver, world.workload())
    await driver.ensure_stopped(workload.id)
    await until(driver, workload.id, is_phase(Phase.EXITED))
    shutil.rmtree(world.data_dir / "instances")
    await world.up(driver, replace(workload, start=2))


async def test_a_node_port_that_another_program_has_is_named_and_another_one_is_taken(
    world: World, driver: DockerDriver
) -> None:
    """The container that was made with the first is not kept for the second."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = int(other.getsockname()[1])
        workload = world.workload(ports=(Port(22, taken),))
        with pytest.raises(NoRoom, match=f"Port {taken} of the machine is in use") as refused:
            await driver.ensure_running(workload)
        assert refused.value.node_port == taken
        await world.up(driver, replace(workload, ports=(Port(22, free_port()),)))
    assert world.containers() == [world.container(workload)]
