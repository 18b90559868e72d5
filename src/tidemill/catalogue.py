"""The operator's catalogue: the tables of ``tidemill.toml``, or what the machine itself offers.

``[[region]]``, ``[[image]]``, ``[[type]]``, ``[[tide]]``, ``[[device]]`` and ``[[registry]]`` are read here
and nowhere else. Without a ``[[type]]`` table, CPU types are sized to the machine, and one GPU type
is made for each power of two of the accelerators it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tidemill.model.errors import Misconfigured
from tidemill.model.money import to_micro
from tidemill.model.offer import ChargeMode, Image, InstanceType, Region, offer_id
from tidemill.model.tariff import DAY_MINUTES, Band

BASE_IMAGE = "tidemill/debian:12"
GB_IN_MB = 1024
LARGEST = 2**31 - 1
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Entry = TypeVar("Entry", Region, Image, InstanceType)

KEYS = {
    "region": {"name", "id", "ssh_address", "driver", "timezone"},
    "image": {"name", "id", "reference", "description"},
    "type": {
        "name",
        "id",
        "cpu",
        "memoryGB",
        "gpuName",
        "gpuNum",
        "shmGB",
        "pids",
        "spot",
        "regions",
        *(mode.value for mode in ChargeMode),
        "spotPrices",
    },
    "tide": {"name", "days", "from", "to", "share"},
    "device": {"id", "name", "paths"},
    "registry": {"host", "username", "password"},
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What one node has to give: cores, MiB, and accelerators by model."""

    cpu: float
    memory_mb: int
    gpus: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NamedDevice:
    """An accelerator that the operator lists by hand, by its device nodes."""

    id: str
    name: str
    paths: tuple[str, ...]


class Tables:
    """The catalogue tables of one file. Raises Misconfigured, naming table, row and key."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables: dict[str, list[Mapping[str, Any]]] = {}
        for table, keys in KEYS.items():
            rows: Any = tables.get(table, [])
            if not isinstance(rows, list):
                raise Misconfigured(f"{table}: write it as [[{table}]], once for each")
            self._tables[table] = cast("list[Mapping[str, Any]]", rows)
            for number, row in enumerate(cast("list[Any]", rows), 1):
                if not isinstance(row, Mapping):
                    raise Misconfigured(f"{table}: write it as [[{table}]], once for each")
                unknown = sorted(set(cast("Mapping[str, Any]", row)) - keys)
                if unknown:
                    raise Misconfigured(
                        f"[[{table}]] number {number}: unknown key {unknown[0]!r}; "
                        f"known are {', '.join(sorted(keys))}"
                    )

    def devices(self) -> list[NamedDevice]:
        return [
            NamedDevice(
                _text("device", row, "id"),
                _text("device", row, "name"),
                _texts("device", row, "paths"),
            )
            for row in self._tables["device"]
        ]

    def registries(self) -> dict[str, tuple[str, str]]:
        """User name and password of private registries, by host."""
        return {
            _text("registry", row, "host"): (
                _text("registry", row, "username"),
                _text("registry", row, "password"),
            )
            for row in self._tables["registry"]
        }

    def tide(self) -> list[Band]:
        """The tide's bands, with thousandths of a type's price ``tidePerHour`` as their rates."""
        return [_tide(row) for row in self._tables["tide"]]

    def regions(self, *, name: str, ssh_address: str, driver: str, zone: str = "UTC") -> list[Region]:
        """The regions of the file, or the one that the settings describe."""
        rows = self._tables["region"] or [{"name": name}]
        return _unique(
            "region",
            [
                Region(
                    id=_maybe("region", row, "id") or offer_id("region", _text("region", row, "name")),
                    name=_text("region", row, "name"),
                    ssh_address=_maybe("region", row, "ssh_address") or ssh_address,
                    driver=_maybe("region", row, "driver") or driver,
                    zone=_zone(_maybe("region", row, "timezone") or zone),
                )
                for row in rows
            ],
        )

    def images(self) -> list[Image]:
        """The images of the file, or the base image that ``tidemill base-image`` makes."""
        rows = self._tables["image"] or [{"name": "Debian 12", "reference": BASE_IMAGE}]
        return _unique(
            "image",
            [
                Image(
                    id=_maybe("image", row, "id") or offer_id("image", _text("image", row, "name")),
                    name=_text("image", row, "name"),
                    reference=_text("image", row, "reference"),
                    description=_maybe("image", row, "description"),
                )
                for row in rows
            ],
        )

    def types(self, machine: Machine, regions: Sequence[Region]) -> list[InstanceType]:
        """The types of the file, or types sized to ``machine``.

        A type names the regions that offer it by their names or ids; without, all do.
        """
        rows = self._tables["type"]
        if not rows:
            return default_types(machine)
        ids = {region.name: region.id for region in regions} | {region.id: region.id for region in regions}
        return _unique("type", [_in_regions(_type(row), ids) for row in rows])


def _type(row: Mapping[str, Any]) -> InstanceType:
    name = _text("type", row, "name")
    try:
        prices = _prices(row)
        kind = InstanceType(
            id=_maybe("type", row, "id") or offer_id("type", name),
            name=name,
            cpu_milli=_count(row, "cpu", 1000),
            memory_mb=_count(row, "memoryGB", GB_IN_MB),
            gpu_name=_maybe("type", row, "gpuName"),
            gpu_num=_count(row, "gpuNum", default=0),
            shm_mb=_count(row, "shmGB", GB_IN_MB, default=0) or _shm(_count(row, "memoryGB", GB_IN_MB)),
            pids=_count(row, "pids", default=4096),
            prices=prices or dict.fromkeys(ChargeMode, 0),
            spot=_flag(row, "spot"),
            spot_prices=_prices(row.get("spotPrices", {})),
            regions=_texts("type", row, "regions"),
        )
    except KeyError as error:
        raise Misconfigured(f"[[type]] {name!r}: key {error.args[0]!r} is missing") from None
    except (ValueError, ArithmeticError, TypeError) as error:
        raise Misconfigured(f"[[type]] {name!r}: {error}") from None
    if kind.cpu_milli < 10 or kind.memory_mb < 16:
        raise Misconfigured(f"[[type]] {name!r}: needs at least 0.01 cpu and 0.016 memoryGB")
    if bool(kind.gpu_name) != (kind.gpu_num > 0):
        raise Misconfigured(f"[[type]] {name!r}: gpuName and gpuNum go together")
    if kind.spot_prices and (not kind.spot or kind.spot_prices.keys() - kind.prices.keys()):
        raise Misconfigured(f"[[type]] {name!r}: spotPrices needs spot = true, and modes that have a price")
    if kind.pids < 16:
        raise Misconfigured(f"[[type]] {name!r}: needs at least 16 pids")
    return kind


def _prices(row: Any) -> dict[ChargeMode, int]:
    """Micro-units by charge mode. Raises ValueError for what is no price."""
    if not isinstance(row, Mapping):
        raise ValueError("prices are written as a table")
    table = cast("Mapping[str, Any]", row)
    return {mode: to_micro(table[mode.value]) for mode in ChargeMode if mode.value in table}


def _zone(name: str) -> str:
    """The name of a time zone that this machine knows."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Misconfigured(
            f"time zone {name!r} is not known here; write a name such as Europe/Berlin, or install tzdata"
        ) from None
    return name


def _tide(row: Mapping[str, Any]) -> Band:
    name = _text("tide", row, "name")
    try:
        share = Decimal(str(row["share"])) * 1000
        if not 0 <= share <= 100_000 or share != int(share):
            raise ValueError("share is a number from 0 to 100 with at most three decimals")
        return Band(
            name, _days(row.get("days", "mon-sun")), _minute(row["from"]), _minute(row["to"]), int(share)
        )
    except KeyError as error:
        raise Misconfigured(f"[[tide]] {name!r}: key {error.args[0]!r} is missing") from None
    except (ValueError, ArithmeticError, TypeError) as error:
        raise Misconfigured(f"[[tide]] {name!r}: {error}") from None


def _days(written: Any) -> frozenset[int]:
    """Days as ``mon-fri`` or ``sat sun``. Raises ValueError."""
    found: set[int] = set()
    for part in str(written).lower().replace(",", " ").split():
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"days {written!r}: write them as mon-fri, or sat sun")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    if not found:
        raise ValueError("days: name at least one")
    return frozenset(found)


def _minute(written: Any) -> int:
    """A time of the day as 22:00, in minutes; 24:00 is its end. Raises ValueError."""
    hour, _, minute = str(written).partition(":")
    if not (hour.isdecimal() and minute.isdecimal() and len(minute) == 2):
        raise ValueError(f"{written!r} is no time of the day such as 22:00")
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > DAY_MINUTES:
        raise ValueError(f"{written!r} is no time of the day such as 22:00")
    return found


def _count(row: Mapping[str, Any], key: str, per: int = 1, *, default: int | None = None) -> int:
    """A number of the file times ``per``, as a whole number. Raises KeyError, ValueError."""
    value = row[key] if default is None else row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | Decimal | float):
        raise ValueError(f"key {key!r} is not a number")
    number = Decimal(value) * per
    if not 0 <= number <= LARGEST or (per == 1 and number != int(number)):
        raise ValueError(f"key {key!r}: {value} is not a number that fits here")
    return int(number)


def _flag(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"key {key!r} is neither true nor false")
    return value


def _in_regions(kind: InstanceType, ids: Mapping[str, str]) -> InstanceType:
    for region in kind.regions:
        if region not in ids:
            raise Misconfigured(f"[[type]] {kind.name!r}: there is no region {region!r}")
    return replace(kind, regions=tuple(ids[region] for region in kind.regions))


def _shm(memory_mb: int) -> int:
    """Half of the memory, as PyTorch's data loaders expect to find."""
    return max(16, memory_mb // 2)


def default_types(machine: Machine) -> list[InstanceType]:
    """CPU types of a quarter, a half and the whole of the machine; GPU types by powers of two.

    All are free of charge until the operator writes prices into the file.
    """
    types: list[InstanceType] = []
    for parts in (4, 2, 1):
        cpu_milli = int(machine.cpu * 1000) // parts
        memory_mb = machine.memory_mb // parts // 64 * 64
        name = f"cpu-{Decimal(cpu_milli) / 1000:f}x{memory_mb / GB_IN_MB:.0f}g"
        types.append(_free(name, cpu_milli, memory_mb))
    for model, count in sorted(machine.gpus.items()):
        number = 1
        while number <= count:
            share = Decimal(number) / count
            kind = _free(
                f"{number}x {model}",
                int(machine.cpu * 1000 * float(share)),
                int(machine.memory_mb * share) // 64 * 64,
                gpu_name=model,
                gpu_num=number,
            )
            types.append(kind)
            number *= 2
    return types


def _free(name: str, cpu_milli: int, memory_mb: int, *, gpu_name: str = "", gpu_num: int = 0) -> InstanceType:
    return InstanceType(
        id=offer_id("type", name),
        name=name,
        cpu_milli=cpu_milli,
        memory_mb=memory_mb,
        gpu_name=gpu_name,
        gpu_num=gpu_num,
        shm_mb=_shm(memory_mb),
        prices=dict.fromkeys(ChargeMode, 0),
    )


def _text(table: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise Misconfigured(f"[[{table}]]: key {key!r} is missing or not a text")
    return value


def _maybe(table: str, row: Mapping[str, Any], key: str) -> str:
    """A text that may be left out."""
    value = row.get(key, "")
    if not isinstance(value, str):
        raise Misconfigured(f"[[{table}]]: key {key!r} is not a text")
    return value


def _texts(table: str, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value: Any = row.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[Any]", value)):
        raise Misconfigured(f"[[{table}]]: key {key!r} is not a list of texts")
    return tuple(cast("list[str]", value))


def _unique(table: str, entries: Sequence[Entry]) -> list[Entry]:
    ids = [entry.id for entry in entries]
    for entry in entries:
        if ids.count(entry.id) > 1:
            raise Misconfigured(f"[[{table}]]: {entry.name!r} is there twice")
    return list(entries)
