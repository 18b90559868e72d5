"""What every simulation begins with: the catalogue, the users, and settings with short times."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Connection

from tests.simulation.store import template
from tests.simulation.story import Setup
from tests.stock import MONEY, pay_in
from tidemill.drivers.contract import Device, Node
from tidemill.model.account import Caller, User
from tidemill.model.offer import ChargeMode, Image, InstanceType, Region
from tidemill.model.tariff import Band
from tidemill.settings import Settings
from tidemill.store import accounts, offers, tariffs
from tidemill.store.database import Database

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USERS_MOST = 3
REGION = Region("region-0", "local", "gpu.example.org", "simulated", zone="Asia/Kathmandu")
IMAGE = Image("image-0", "Debian 12", "tidemill/debian:12")
GPU = "H100"
PRICE = 1_234_567_891  # of an hour of the cheapest, in micro-units
DISK_PRICE = 7_654_321  # of a GB and hour
TIDE = tuple(  # another one with every minute, in a zone that is 5:45 from UTC
    Band(f"minute-{minute}", frozenset(range(7)), minute, minute + 1, 300 + 250 * (minute % 3))
    for minute in range(17 * 60 + 45, 17 * 60 + 55)
)


def _type(name: str, cores: int, gpus: int) -> InstanceType:
    return InstanceType(
        f"type-{name}",
        name,
        cpu_milli=1000 * cores,
        memory_mb=1024,
        gpu_name=GPU if gpus else "",
        gpu_num=gpus,
        prices={
            ChargeMode.PER_HOUR: PRICE * (1 + 2 * gpus),
            ChargeMode.TIDE_PER_HOUR: PRICE * (1 + 2 * gpus),
            ChargeMode.PER_DAY: PRICE // 500,
        },
    )


TYPES = {"cpu": _type("cpu", 1, 0), "gpu": _type("gpu", 1, 1), "gpu2": _type("gpu2", 2, 2)}


@cache
def prepared() -> tuple[bytes, tuple[Caller, ...]]:
    """A database with the catalogue and the users in it, and the users."""
    users: list[User] = []

    def fill(database: Database) -> None:
        database.run(_offer)
        for number in range(USERS_MOST):
            name = f"user-{number}"
            made = database.run(
                lambda connection, name=name: accounts.create_user(
                    connection, username=name, password_hash="never", is_admin=False, now=START
                )
            )
            database.run(lambda connection, id=made.id: pay_in(connection, id, MONEY, START))
            users.append(made)

    made = template(fill)
    return made, tuple(map(Caller, users))


def _offer(connection: Connection) -> None:
    types = list(TYPES.values())
    offers.publish(connection, new_regions=[REGION], new_images=[IMAGE], new_types=types)
    tariffs.publish(connection, types=types, regions=[REGION], tide=TIDE, disk=DISK_PRICE, at=START)


@cache
def settings_of(setup: Setup, role: str = "all") -> Settings:
    """Times that are short against the minutes that a story lasts."""
    return Settings(
        role=role,
        beat=5,
        full_pass=12,
        lease=16,
        driver_patience=16,
        driver_calls=4,
        orphan_grace=6,
        initializing_deadline=20,
        pulling_deadline=25,
        starting_deadline=15,
        restarting_deadline=25,
        stopping_deadline=8,
        terminating_deadline=8,
        restart_pause=1,
        restart_pause_most=4,
        restart_quiet=60,
        memory_reserve_mb=0,
        node_ports=f"31000-{31000 + setup.ports - 1}",
    )


def nodes_of(setup: Setup) -> list[Node]:
    return [
        Node(
            f"node-{number}",
            cpu=setup.cores,
            memory_mb=64 * 1024,
            disk_gb=100,
            devices=tuple(Device(f"gpu-{number}-{index}", GPU) for index in range(setup.gpus)),
        )
        for number in range(setup.nodes)
    ]
