"""Prices and their history: rows are added, never changed. What was launched keeps the row it came with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select
from sqlalchemy.sql import ColumnElement

from tidemill.model.offer import ChargeMode, InstanceType, Region
from tidemill.model.tariff import Band, Tariff
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import EPOCH, tariffs

FILE, ADMIN = "file", "admin"  # who set a price
DISK = "dataDisk"  # the charge mode of the rows for data disks, which have no type

_COLUMNS = (
    tariffs.c.id,
    tariffs.c.type_id,
    tariffs.c.region_id,
    tariffs.c.charge_mode,
    tariffs.c.is_spot,
    tariffs.c.price_micro,
    tariffs.c.bands,
    tariffs.c.zone,
    tariffs.c.valid_from,
    tariffs.c.source,
)
_CURRENT = Prepared(
    select(*_COLUMNS)
    .where(
        tariffs.c.type_id == bindparam("wanted_type"),
        tariffs.c.region_id == bindparam("wanted_region"),
        tariffs.c.charge_mode == bindparam("wanted_mode"),
        tariffs.c.is_spot == bindparam("wanted_spot", type_=tariffs.c.is_spot.type),
    )
    .order_by(tariffs.c.id.desc())
    .limit(1)
)
_BY_IDS = Prepared(select(*_COLUMNS).where(among(tariffs.c.id, "ids")))


@dataclass(frozen=True, slots=True)
class Price:
    """One row of the history. ``amount`` in micro-units per hour, day, week or month by ``mode``.

    For ``mode`` DISK it is per GB and hour.
    """

    id: int
    type_id: str
    region_id: str
    mode: str
    is_spot: bool
    amount: int
    bands: tuple[Band, ...]
    zone: str
    valid_from: datetime
    source: str

    @property
    def tariff(self) -> Tariff:
        """What an hour costs at any time; for the hourly modes and disks."""
        return Tariff(self.amount, self.bands, self.zone)


Key = tuple[str, str, str, bool]  # type, region, mode, whether it is for spot
Current = Mapping[Key, Price]


def _price(row: Sequence[Any]) -> Price:
    values = list(row)
    values[6] = tuple(_band(each) for each in values[6])
    return Price(*values)


def _band(written: Mapping[str, Any]) -> Band:
    return Band(
        written["name"],
        frozenset(written["weekdays"]),
        written["begins"],
        written["ends"],
        written["rate"],
    )


def _written(band: Band) -> dict[str, Any]:
    return {
        "name": band.name,
        "weekdays": sorted(band.weekdays),
        "begins": band.begins,
        "ends": band.ends,
        "rate": band.rate,
    }


def current(
    connection: Connection, type_id: str, region_id: str, mode: str, *, is_spot: bool = False
) -> Price | None:
    """The price that holds now; None when it is not offered."""
    row = _CURRENT.first(
        connection,
        {
            "wanted_type": type_id,
            "wanted_region": region_id,
            "wanted_mode": mode,
            "wanted_spot": is_spot,
        },
    )
    return None if row is None else _price(row)


def disk_price(connection: Connection, region_id: str) -> int:
    """Micro-units per GB of data disk and hour in a region."""
    found = current(connection, "", region_id, DISK)
    return 0 if found is None else found.amount


def by_ids(connection: Connection, ids: Iterable[int]) -> dict[int, Price]:
    """Rows by their ids."""
    wanted = set(ids)
    if not wanted:
        return {}
    return {row[0]: _price(row) for row in _BY_IDS.all(connection, {"ids": wanted})}


def all_current(connection: Connection) -> dict[Key, Price]:
    """Every price that holds now, by type, region, mode and whether it is for spot."""
    newest = select(func.max(tariffs.c.id)).group_by(
        tariffs.c.type_id, tariffs.c.region_id, tariffs.c.charge_mode, tariffs.c.is_spot
    )
    rows = connection.execute(select(*_COLUMNS).where(tariffs.c.id.in_(newest)))
    return {_key(price): price for price in map(_price, rows)}


def history(
    connection: Connection,
    *,
    offset: int,
    limit: int,
    type_id: str | None = None,
    region_id: str | None = None,
    mode: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[list[Price], int]:
    """Prices there ever were, set in [since, until), newest first; and how many in all."""
    conditions: list[ColumnElement[bool]] = []
    for column, value in (
        (tariffs.c.type_id, type_id),
        (tariffs.c.region_id, region_id),
        (tariffs.c.charge_mode, mode),
    ):
        if value is not None:
            conditions.append(column == value)
    if since is not None:
        conditions.append(tariffs.c.valid_from >= since)
    if until is not None:
        conditions.append(tariffs.c.valid_from < until)
    total = connection.execute(select(func.count()).select_from(tariffs).where(*conditions)).scalar_one()
    rows = connection.execute(
        select(*_COLUMNS).where(*conditions).order_by(tariffs.c.id.desc()).offset(offset).limit(limit)
    )
    return [_price(row) for row in rows], total


def _key(price: Price) -> Key:
    return price.type_id, price.region_id, price.mode, price.is_spot


def add(connection: Connection, price: Price) -> None:
    """Have this price hold from here on; its ``id`` is given by the database."""
    connection.execute(
        insert(tariffs),
        {
            "type_id": price.type_id,
            "region_id": price.region_id,
            "charge_mode": price.mode,
            "is_spot": price.is_spot,
            "price_micro": price.amount,
            "bands": [_written(band) for band in price.bands],
            "zone": price.zone,
            "valid_from": price.valid_from,
            "source": price.source,
        },
    )


def publish(
    connection: Connection,
    *,
    types: Sequence[InstanceType],
    regions: Sequence[Region],
    tide: Sequence[Band],
    disk: int,
    at: datetime,
) -> None:
    """Have the prices of the operator's file hold, where the file changed since it was last published.

    A price that was set while the server ran stays until the file says another. ``tide`` has thousandths
    of the price ``tidePerHour`` as rates; ``disk`` is micro-units per GB and hour.
    """
    written = _of_file(connection)
    for region in regions:
        wanted = [
            Price(
                0,
                kind.id,
                region.id,
                mode.value,
                is_spot,
                amount,
                _bands(mode, amount, tide),
                region.zone,
                at,
                FILE,
            )
            for kind in types
            if not kind.regions or region.id in kind.regions
            for is_spot, prices in ((False, kind.prices), (True, kind.spot_prices or kind.prices))
            if kind.spot or not is_spot
            for mode, amount in prices.items()
        ]
        wanted.append(Price(0, "", region.id, DISK, False, disk, (), region.zone, at, FILE))
        for price in wanted:
            before = written.get(_key(price))
            if before is None:
                add(connection, _since(price, EPOCH))
            elif (before.amount, before.bands, before.zone) != (price.amount, price.bands, price.zone):
                add(connection, price)


def _since(price: Price, instant: datetime) -> Price:
    return replace(price, valid_from=instant)


def _bands(mode: ChargeMode, amount: int, tide: Sequence[Band]) -> tuple[Band, ...]:
    if mode is not ChargeMode.TIDE_PER_HOUR:
        return ()
    return tuple(
        Band(band.name, band.weekdays, band.begins, band.ends, amount * band.rate // 1000) for band in tide
    )


def _of_file(connection: Connection) -> dict[Key, Price]:
    rows = connection.execute(select(*_COLUMNS).where(tariffs.c.source == FILE).order_by(tariffs.c.id))
    return {_key(price): price for price in map(_price, rows)}
