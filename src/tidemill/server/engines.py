"""Which driver runs the instances of which region, made from the settings."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tidemill.catalogue import Tables
from tidemill.clock import Clock
from tidemill.drivers.contract import Device, Driver, DriverError, Node
from tidemill.model.errors import Misconfigured
from tidemill.model.offer import Region
from tidemill.settings import Configuration, Settings

if TYPE_CHECKING:
    from tidemill.drivers.simulated.engine import Engine

MEMORY = "memory"  # a simulated engine of its server's own process


def make_drivers(
    configuration: Configuration,
    tables: Tables,
    regions: list[Region],
    deployment: str,
    clock: Clock,
    *,
    to_look: bool = False,
) -> Mapping[str, Driver]:
    """A driver for every region, by its id. Raises Misconfigured.

    Made only ``to_look``, they bring nothing with them that would have to be built first, and a region
    whose engine is in its server's own memory has none.
    """
    made: dict[str, Driver] = {}
    for region in regions:
        if region.driver == "docker":
            made[region.id] = _docker(configuration.settings, tables, deployment, to_look=to_look)
        elif region.driver == "simulated" and to_look and configuration.settings.simulated_folder == MEMORY:
            continue
        elif region.driver == "simulated":
            made[region.id] = _simulated(configuration.settings, clock, f"{deployment}-{region.id}")
        else:
            raise Misconfigured(
                f"region {region.name!r}: there is no driver {region.driver!r}; "
                "there are docker and simulated"
            )
    if sum(region.driver == "docker" for region in regions) > 1:
        raise Misconfigured("only one region can use the docker driver of this machine")
    return made


def engine_of(region: Region, settings: Settings, place: str) -> str:
    """Names the engine of a region: where two servers' names differ, their engines do.

    What an instance has of an engine lies partly in the data folder of its server (``place``).
    """
    if region.driver == "simulated" and settings.simulated_folder not in {"", MEMORY}:
        return f"simulated in {settings.simulated_folder}"
    return f"{region.driver} of {place.partition('@')[0]}"


def has_some_of(region: Region, settings: Settings, ids: Collection[str]) -> bool:
    """Whether the data folder holds what belongs to some of these instances of the region."""
    if region.driver != "docker":
        return False
    return any((settings.data_dir / "instances" / id).exists() for id in ids)


def _docker(settings: Settings, tables: Tables, deployment: str, *, to_look: bool) -> Driver:
    from tidemill.drivers.docker.driver import DockerDriver
    from tidemill.drivers.nvidia import found as found_nvidia
    from tidemill.guest import build as guest
    from tidemill.guest.installed import InstalledGuest

    folder = settings.data_dir / "guest"
    named = tuple(Device(device.id, device.name, device.paths) for device in tables.devices())
    return DockerDriver(
        url=settings.docker_url,
        deployment=deployment,
        guest=InstalledGuest((guest.built(folder) or folder) if to_look else guest.build(folder)),
        data_dir=settings.data_dir,
        publish_address=settings.publish_address,
        network_pool=settings.tenant_networks,
        registries=tables.registries(),
        devices=named or found_nvidia(),
        stop_grace=settings.stop_grace,
        node_name="local",  # a new name would be a new node, and its devices given out twice
    )


def _simulated(settings: Settings, clock: Clock, name: str) -> Driver:
    from tidemill.drivers.simulated.dials import Dials
    from tidemill.drivers.simulated.driver import SimulatedDriver
    from tidemill.drivers.simulated.faults import Drawn, parse

    try:
        faults = parse(settings.simulated_faults)
        engine = _simulated_engine(settings, clock, name)
    except ValueError as error:
        raise Misconfigured(f"setting simulated_faults: {error}") from None
    except DriverError as error:
        raise Misconfigured(f"setting simulated_folder: {error}") from error
    usual = Dials(
        pull_seconds=settings.simulated_pull_seconds,
        start_seconds=settings.simulated_start_seconds,
        stop_seconds=settings.simulated_stop_seconds,
    )
    dial = Drawn(faults, usual=usual, draw=random.random, engine=engine)
    return SimulatedDriver(sleep=clock.sleep, engine=engine, dial=dial)


def _simulated_engine(settings: Settings, clock: Clock, name: str) -> Engine:
    from tidemill.drivers.simulated.engine import Engine
    from tidemill.drivers.simulated.file import EngineInFile

    def now() -> float:
        return clock.now().timestamp()

    nodes = [
        Node(
            name=f"node-{number}",
            cpu=64,
            memory_mb=512 * 1024,
            disk_gb=10_000,
            devices=tuple(Device(f"gpu-{number}-{index}", "SIM-H100") for index in range(8)),
        )
        for number in range(settings.simulated_nodes)
    ]
    overcommit = settings.cpu_overcommit
    if settings.simulated_folder == MEMORY:
        return Engine(nodes, now=now, cpu_overcommit=overcommit, keep_journal=False)
    folder = Path(settings.simulated_folder or settings.data_dir / "simulated") / quote(name, safe="")
    return EngineInFile(folder, nodes, now=now, cpu_overcommit=overcommit)
