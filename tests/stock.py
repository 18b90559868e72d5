"""A clock that tests move, and a catalogue with one node to launch on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import Connection

from tidemill.actions.launch import _accept
from tidemill.model.account import Caller, User
from tidemill.model.instance import Instance, Order
from tidemill.model.ledger import payment
from tidemill.model.offer import ChargeMode, Image, InstanceType, Region, offer_id
from tidemill.settings import Settings
from tidemill.store import accounts, ledger, nodes, offers, tariffs
from tidemill.store.database import Database
from tidemill.store.nodes import FoundDevice, FoundNode

MONEY = 10_000_000_000  # that every user begins with, in micro-units
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class HandClock:
    """A clock that only moves when told; sleeping on it lets its time pass."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._monotonic = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_by(seconds)
        await asyncio.sleep(0)

    def pass_by(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_back(self, seconds: float) -> None:
        """Step the wall clock back, as an operator or NTP may; the monotonic clock does not."""
        self._now -= timedelta(seconds=seconds)


REGION = Region("0f5a2c1e-0000-4000-8000-000000000001", "local", "gpu.example.org", "simulated")
IMAGE = Image("0f5a2c1e-0000-4000-8000-000000000002", "Debian 12", "tidemill/debian:12")
CPU_TYPE = InstanceType(
    "0f5a2c1e-0000-4000-8000-000000000003",
    "cpu-1",
    cpu_milli=1000,
    memory_mb=1024,
    prices=dict.fromkeys(ChargeMode, 1_500_000),
)
GPU_TYPE = InstanceType(
    "0f5a2c1e-0000-4000-8000-000000000004",
    "1x H100",
    cpu_milli=2000,
    memory_mb=4096,
    gpu_name="H100",
    gpu_num=1,
    prices={ChargeMode.PER_HOUR: 2_000_000},
)
NODE = FoundNode(
    offer_id("node", f"{REGION.id}/node-0"),
    "node-0",
    cpu_milli=8000,
    memory_mb=16384,
    disk_gb=100,
    devices=tuple(FoundDevice(f"gpu-{number}", "H100", ()) for number in range(2)),
)


@dataclass(frozen=True)
class Stocked:
    """A database with a catalogue, one node and two users."""

    database: Database
    alice: User
    bob: User

    def order(self, *, type_id: str = CPU_TYPE.id, **changes: object) -> Order:
        values: dict[str, object] = {
            "name": "my instance",
            "image_id": IMAGE.id,
            "type_id": type_id,
            "region_id": REGION.id,
            "charge_mode": ChargeMode.PER_HOUR,
            "duration": 1,
        }
        return Order(**(values | changes))  # type: ignore[arg-type]


def offer(
    connection: Connection, types: Sequence[InstanceType], region: Region = REGION, image: Image = IMAGE
) -> None:
    """Have these types offered in one region, with their prices from now on."""
    offers.publish(connection, new_regions=[region], new_images=[image], new_types=types)
    tariffs.publish(connection, types=types, regions=[region], tide=[], disk=0, at=START)


def accept(connection: Connection, settings: Settings, user: User, order: Order, now: datetime) -> Instance:
    """Launch, inside a transaction, as the action does."""
    return _accept(connection, settings, Caller(user), order, now, f"notebook-{uuid4()}")


def pay_in(connection: Connection, user_id: str, amount: int, at: datetime, id: str = "first") -> None:
    """Give somebody money to spend, in micro-units."""
    ledger.open_wallet(connection, user_id, at)
    ledger.post(connection, [payment(f"{user_id}:{id}", user_id, amount, at)])


def stock(database: Database, clock: HandClock) -> Stocked:
    """Put the catalogue, the node and the users into an empty database."""

    def user(connection: Connection, name: str) -> User:
        made = accounts.create_user(
            connection, username=name, password_hash="never", is_admin=False, now=clock.now()
        )
        pay_in(connection, made.id, MONEY, clock.now())
        return made

    def work(connection: Connection) -> Stocked:
        offer(connection, [CPU_TYPE, GPU_TYPE])
        nodes.register(connection, REGION.id, [NODE])
        return Stocked(database, user(connection, "alice"), user(connection, "bob"))

    return database.run(work)
