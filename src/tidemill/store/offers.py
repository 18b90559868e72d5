"""The catalogue: regions, images and types, written by the operator's file, read by everyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.model.offer import ChargeMode, Image, InstanceType, Region
from tidemill.store.prepared import Prepared
from tidemill.store.schema import images, instance_types, regions

_REGION = select(regions.c.id, regions.c.name, regions.c.ssh_address, regions.c.driver, regions.c.zone)
_IMAGE = select(images.c.id, images.c.name, images.c.reference, images.c.description)
_TYPE = select(
    *(column for column in instance_types.c if column.name not in {"offered", "position"}),
)
_REGION_BY_ID = _REGION.where(regions.c.id == bindparam("wanted_id"))
_OFFERED_REGION = Prepared(_REGION_BY_ID.where(regions.c.offered))
_REGIONS = Prepared(_REGION.order_by(regions.c.position))
_OFFERED_REGIONS = Prepared(_REGION.where(regions.c.offered).order_by(regions.c.position))
_OFFERED_IMAGE = Prepared(_IMAGE.where(images.c.id == bindparam("wanted_id"), images.c.offered))
_OFFERED_TYPE = Prepared(_TYPE.where(instance_types.c.id == bindparam("wanted_id"), instance_types.c.offered))
_OFFERED_TYPES = Prepared(_TYPE.where(instance_types.c.offered).order_by(instance_types.c.position))
_TYPE_COLUMNS = tuple(_TYPE.exported_columns.keys())


def _type(row: Mapping[str, Any]) -> InstanceType:
    values = dict(row)
    values["prices"] = {ChargeMode(mode): price for mode, price in values["prices"].items()}
    values["regions"] = tuple(values["regions"])
    return InstanceType(**values)


def offered_region(connection: Connection, region_id: str) -> Region | None:
    row = _OFFERED_REGION.first(connection, {"wanted_id": region_id})
    return None if row is None else Region(*row)


def region(connection: Connection, region_id: str) -> Region | None:
    """A region by its id, also one that is no longer offered."""
    row = connection.execute(_REGION_BY_ID, {"wanted_id": region_id}).mappings().first()
    return None if row is None else Region(**row)


def offered_image(connection: Connection, image_id: str) -> Image | None:
    row = _OFFERED_IMAGE.first(connection, {"wanted_id": image_id})
    return None if row is None else Image(*row)


def offered_type(connection: Connection, type_id: str) -> InstanceType | None:
    row = _OFFERED_TYPE.first(connection, {"wanted_id": type_id})
    return None if row is None else _type(dict(zip(_TYPE_COLUMNS, row, strict=True)))


def all_regions(connection: Connection, *, offered: bool = True) -> list[Region]:
    return [Region(*row) for row in (_OFFERED_REGIONS if offered else _REGIONS).all(connection, {})]


def all_images(connection: Connection) -> list[Image]:
    statement = _IMAGE.where(images.c.offered).order_by(images.c.position)
    return [Image(**row) for row in connection.execute(statement).mappings()]


def all_types(connection: Connection) -> list[InstanceType]:
    rows = _OFFERED_TYPES.all(connection, {})
    return [_type(dict(zip(_TYPE_COLUMNS, row, strict=True))) for row in rows]


def publish(
    connection: Connection,
    *,
    new_regions: Sequence[Region],
    new_images: Sequence[Image],
    new_types: Sequence[InstanceType],
) -> None:
    """Make the catalogue this; what is no longer named is kept for its instances, not offered."""
    _publish(connection, regions, [asdict(entry) for entry in new_regions])
    _publish(connection, images, [asdict(entry) for entry in new_images])
    _publish(
        connection,
        instance_types,
        [
            {name: value for name, value in asdict(entry).items() if name != "spot_prices"}
            | {
                "prices": {mode.value: price for mode, price in entry.prices.items()},
                "regions": list(entry.regions),
            }
            for entry in new_types
        ],
    )


def _publish(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    connection.execute(update(table).values(offered=False))
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    for position, row in enumerate(rows):
        values = row | {"offered": True, "position": position}
        statement = dialect.insert(table).values(values)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["id"], set_={name: values[name] for name in values if name != "id"}
            )
        )
