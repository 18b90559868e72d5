"""What can be rented: regions, images and instance types, as the operator wrote them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID, uuid5

# Ids of catalogue entries without an id of their own are a function of kind and name, so that
# they are the same after every restart and on every server.
NAMESPACE = UUID("6f0a4f5c-9a53-4b1e-9d0e-3f1f0c6b7d21")


def offer_id(kind: str, name: str) -> str:
    """The id of a catalogue entry (``region``, ``image``, ``type``, ``node``) that has only a name."""
    return str(uuid5(NAMESPACE, f"{kind}:{name}"))


class ChargeMode(StrEnum):
    """How an instance is paid for; the wire's words, in the wire's order."""

    TIDE_PER_HOUR = "tidePerHour"
    PER_HOUR = "perHour"
    PER_DAY = "perDay"
    PER_WEEK = "perWeek"
    PER_MONTH = "perMonth"

    @property
    def hourly(self) -> bool:
        return self in {ChargeMode.TIDE_PER_HOUR, ChargeMode.PER_HOUR}


@dataclass(frozen=True, slots=True)
class Region:
    """A place with its own driver.

    ``ssh_address`` is the host that users connect to; ``zone`` names the time zone (IANA) whose clock its
    tide prices and calendar months follow.
    """

    id: str
    name: str
    ssh_address: str
    driver: str
    zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Image:
    """A container image under a name users know. ``reference`` is the engine's name for it."""

    id: str
    name: str
    reference: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """What one instance gets.

    Attributes:
        cpu_milli: thousandths of a core. memory_mb, shm_mb: MiB. pids: the most processes.
        gpu_name: model name, "" for CPU types. gpu_num: how many.
        prices: micro-units of the currency per period of each charge mode it offers (per hour
            for the hourly modes, else per day, week or month).
        spot: whether it may be rented as spot.
        spot_prices: the same for spot; ``prices`` where empty.
        regions: ids of the regions that offer it; empty for all.
    """

    id: str
    name: str
    cpu_milli: int
    memory_mb: int
    gpu_name: str = ""
    gpu_num: int = 0
    shm_mb: int = 64
    pids: int = 4096
    prices: Mapping[ChargeMode, int] = field(default_factory=dict[ChargeMode, int])
    spot: bool = False
    spot_prices: Mapping[ChargeMode, int] = field(default_factory=dict[ChargeMode, int])
    regions: tuple[str, ...] = ()
