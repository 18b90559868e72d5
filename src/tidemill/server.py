"""The composition root: the only place where store, drivers, clock, loops and API are put together."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

import structlog
import uvicorn
from sqlalchemy import Connection

from tidemill import logs
from tidemill.actions.context import Context
from tidemill.api.app import create_app
from tidemill.catalogue import Machine, Tables
from tidemill.clock import Clock, SystemClock
from tidemill.deployment import deployment_label, make_tokens, only_server, open_database, prepare_folder
from tidemill.drivers.contract import Device, Driver, DriverError, Node
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.errors import Misconfigured
from tidemill.model.offer import Region
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.nodes import register_nodes
from tidemill.settings import Configuration, Settings
from tidemill.store import instances, offers
from tidemill.store.database import Database
from tidemill.wake import Wake

log = structlog.get_logger("server")

GC_THRESHOLD = (20_000, 20, 50)  # requests make few cycles and many objects


def check_regions(database: Database, regions: list[Region]) -> None:
    """Nobody would work on the instances of a region that is not there. Raises Misconfigured."""
    used = database.run(instances.regions_in_use)
    for region_id in sorted(used.keys() - {region.id for region in regions}):
        known = database.run(lambda connection, id=region_id: offers.region(connection, id))
        name = region_id if known is None else known.name
        raise Misconfigured(
            f"The region {name!r} is no longer configured and has {used[region_id]} instances. Put "
            f'it back until they are terminated; to rename it, keep its id: id = "{region_id}" in [[region]]'
        )


def _ssh_address(settings: Settings) -> str:
    """How users reach node ports: the setting, else the address that published ports have."""
    if settings.ssh_address:
        return settings.ssh_address
    if settings.publish_address not in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound
        return settings.publish_address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # picks a route; nothing is sent
        return probe.getsockname()[0]
    return "127.0.0.1"


def _drivers(
    configuration: Configuration, tables: Tables, regions: list[Region], deployment: str, clock: Clock
) -> Mapping[str, Driver]:
    made: dict[str, Driver] = {}
    for region in regions:
        if region.driver == "docker":
            made[region.id] = _docker(configuration.settings, tables, deployment)
        elif region.driver == "simulated":
            made[region.id] = _simulated(configuration.settings, clock)
        else:
            raise Misconfigured(
                f"region {region.name!r}: there is no driver {region.driver!r}; "
                "there are docker and simulated"
            )
    if sum(region.driver == "docker" for region in regions) > 1:
        raise Misconfigured("only one region can use the docker driver of this machine")
    return made


def _docker(settings: Settings, tables: Tables, deployment: str) -> Driver:
    from tidemill.drivers.docker.driver import DockerDriver
    from tidemill.drivers.nvidia import found as found_nvidia
    from tidemill.guest.build import build as build_guest
    from tidemill.guest.installed import InstalledGuest

    named = tuple(Device(device.id, device.name, device.paths) for device in tables.devices())
    return DockerDriver(
        url=settings.docker_url,
        deployment=deployment,
        guest=InstalledGuest(build_guest(settings.data_dir / "guest")),
        data_dir=settings.data_dir,
        publish_address=settings.publish_address,
        network_pool=settings.tenant_networks,
        registries=tables.registries(),
        devices=named or found_nvidia(),
        stop_grace=settings.stop_grace,
        node_name="local",  # a new name would be a new node, and its devices given out twice
    )


def _simulated(settings: Settings, clock: Clock) -> Driver:
    return SimulatedDriver(
        nodes=[
            Node(
                name=f"node-{number}",
                cpu=64,
                memory_mb=512 * 1024,
                disk_gb=10_000,
                devices=tuple(Device(f"gpu-{number}-{index}", "SIM-H100") for index in range(8)),
            )
            for number in range(settings.simulated_nodes)
        ],
        sleep=clock.sleep,
    )


def _machine(nodes: list[Node]) -> Machine:
    """The first node, or this machine when its engine does not answer."""
    if not nodes:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        return Machine(os.cpu_count() or 1, memory, {})
    gpus: dict[str, int] = {}
    for device in nodes[0].devices:
        gpus[device.name] = gpus.get(device.name, 0) + 1
    return Machine(nodes[0].cpu, nodes[0].memory_mb, gpus)


async def _publish(
    database: Database,
    settings: Settings,
    tables: Tables,
    regions: list[Region],
    drivers: Mapping[str, Driver],
) -> None:
    """Write the catalogue into the database, with types sized to the machine where none are listed."""
    nodes: list[Node] = []
    try:
        async with asyncio.timeout(10):
            nodes = await drivers[regions[0].id].nodes()
    except (DriverError, TimeoutError) as error:
        log.error("the container engine does not answer; serving without it until it does", error=str(error))
    machine = _machine(nodes)
    sized = Machine(machine.cpu, max(64, machine.memory_mb - settings.memory_reserve_mb), machine.gpus)
    images, types = tables.images(), tables.types(sized, regions)

    def work(connection: Connection) -> None:
        offers.publish(connection, new_regions=regions, new_images=images, new_types=types)

    await database.write(work)
    for region in regions:
        with suppress(DriverError):
            await register_nodes(database, settings, region.id, drivers[region.id])


async def serve(configuration: Configuration, clock: Clock) -> None:
    """Run a server until it is told to stop. Raises Misconfigured, Unavailable."""
    settings = configuration.settings
    tables = Tables(configuration.tables)
    regions = tables.regions(
        name=settings.region_name, ssh_address=_ssh_address(settings), driver=settings.driver
    )
    database = open_database(settings)
    drivers: Mapping[str, Driver] = {}
    try:
        deployment = deployment_label(database, settings)
        check_regions(database, regions)
        drivers = _drivers(configuration, tables, regions, deployment, clock)
        await _publish(database, settings, tables, regions, drivers)
        wake = Wakes([region.id for region in regions])
        context = Context(
            database=database,
            clock=clock,
            wake=wake,
            settings=settings,
            tokens=make_tokens(settings),
            drivers=drivers,
        )
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        loops = [
            Loop(
                database=database,
                clock=clock,
                wake=wake.of[region.id],
                settings=settings,
                region_id=region.id,
                driver=drivers[region.id],
                owner=owner,
            )
            for region in regions
        ]
        await _run(context, loops)
    finally:
        for driver in drivers.values():
            await driver.close()
        database.close()


class Wakes(Wake):
    """One bell for the API that rings every region's loop."""

    def __init__(self, regions: list[str]) -> None:
        super().__init__()
        self.of = {region: Wake() for region in regions}

    def set(self) -> None:
        for wake in self.of.values():
            wake.set()


class _Web(uvicorn.Server):
    """Ends on a signal and leaves the process to us, who still have leases and connections to let go of.

    uvicorn's own way is to raise the signal again, which would end the process there and then.
    """

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def _run(context: Context, loops: list[Loop]) -> None:
    settings = context.settings
    web = _Web(
        uvicorn.Config(
            create_app(context),
            host=settings.host,
            port=settings.port,
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # api/callers.py knows whom to believe
            timeout_graceful_shutdown=5,
        )
    )
    tasks = [asyncio.create_task(loop.run(), name="reconcile") for loop in loops]
    log.info("serving", host=settings.host, port=settings.port, data_dir=str(settings.data_dir))
    try:
        await web.serve()
    except SystemExit as error:  # uvicorn could not bind; it has logged why
        raise Misconfigured(
            f"cannot listen on {settings.host} port {settings.port}; is something else using it?"
        ) from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        log.info("stopped")


def main(configuration: Configuration) -> None:
    """Serve in the foreground. Raises Misconfigured."""
    settings = configuration.settings
    logs.configure(settings.log_format)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    folder = prepare_folder(settings)
    gc.freeze()  # what was imported stays; do not look through it again and again
    gc.set_threshold(*GC_THRESHOLD)
    with only_server(folder), asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(serve(configuration, SystemClock()))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
