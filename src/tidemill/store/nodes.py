"""The machines behind each region, as their drivers reported them last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import devices, nodes

_KNOWN = Prepared(
    select(
        nodes.c.id, nodes.c.present, nodes.c.name, nodes.c.cpu_milli, nodes.c.memory_mb, nodes.c.disk_gb
    ).where(nodes.c.region_id == bindparam("region_id"))
)
_KNOWN_DEVICES = Prepared(
    select(devices.c.node_id, devices.c.device_id, devices.c.name, devices.c.paths)
    .join(nodes, nodes.c.id == devices.c.node_id)
    .where(nodes.c.region_id == bindparam("region_id"), devices.c.present)
)
_ANY_PRESENT = Prepared(
    select(nodes.c.id).where(nodes.c.region_id == bindparam("here"), nodes.c.present).limit(1)
)
_NAME = Prepared(select(nodes.c.name).where(nodes.c.id == bindparam("wanted_id")))
_NONE_PRESENT = Prepared(update(devices).where(among(devices.c.node_id, "ids")).values(present=False))


def _registering(table: Table, key: tuple[str, ...], told: tuple[str, ...]) -> dict[str, Prepared]:
    """By dialect: write rows of ``told`` or, where the key is there, what was told of it."""
    found: dict[str, Prepared] = {}
    for dialect in (sqlite, postgresql):
        statement = dialect.insert(table)
        changed = {name: statement.excluded[name] for name in told if name not in (*key, "region_id")}
        found[dialect.__name__.rpartition(".")[2]] = Prepared(
            statement.on_conflict_do_update(index_elements=list(key), set_=changed), columns=told
        )
    return found


_REGISTER = _registering(
    nodes, ("id",), ("id", "region_id", "name", "cpu_milli", "memory_mb", "disk_gb", "present")
)
_REGISTER_DEVICES = _registering(
    devices, ("node_id", "device_id"), ("node_id", "device_id", "name", "paths", "present")
)


@dataclass(frozen=True, slots=True)
class FoundDevice:
    id: str
    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node as it may be given out: capacity after overcommit and reserve."""

    id: str
    name: str
    cpu_milli: int
    memory_mb: int
    disk_gb: int
    devices: tuple[FoundDevice, ...]


def any_present(connection: Connection, region_id: str) -> bool:
    """Whether any machine of the region is there to take an instance, full or not."""
    return _ANY_PRESENT.first(connection, {"here": region_id}) is not None


@dataclass(frozen=True, slots=True)
class Difference:
    """What a driver reported and the database does not say.

    Attributes:
        gone: ids of nodes that take nothing new.
        changed: nodes that are new, back, or otherwise than they were.
        back: ids of those that took no instances so far: new ones, or back again.
    """

    gone: tuple[str, ...]
    changed: tuple[FoundNode, ...]
    back: frozenset[str]


def name_of(connection: Connection, node_id: str) -> str:
    """What the driver calls a node; "" for one that was never registered."""
    row = _NAME.first(connection, {"wanted_id": node_id})
    return "" if row is None else row[0]


def compare(connection: Connection, region_id: str, found: Sequence[FoundNode]) -> Difference:
    """What there is to write down of all that a driver ``found``; thousands of nodes take their time."""
    known = {row[0]: tuple(row[1:]) for row in _KNOWN.all(connection, {"region_id": region_id})}
    known_devices: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {}
    for node_id, device_id, name, paths in _KNOWN_DEVICES.all(connection, {"region_id": region_id}):
        known_devices.setdefault(node_id, []).append((device_id, name, tuple(paths)))
    changed = [
        node
        for node in found
        if known.get(node.id) != (True, node.name, node.cpu_milli, node.memory_mb, node.disk_gb)
        or sorted(known_devices.get(node.id, ())) != sorted((d.id, d.name, d.paths) for d in node.devices)
    ]
    there = {node.id for node in found}
    return Difference(
        gone=tuple(id for id, row in known.items() if row[0] and id not in there),
        changed=tuple(changed),
        back=frozenset(node.id for node in changed if node.id not in known or not known[node.id][0]),
    )


def leave_out(connection: Connection, node_ids: Sequence[str]) -> None:
    """These nodes take nothing new."""
    connection.execute(update(nodes).where(nodes.c.id.in_(list(node_ids))).values(present=False))


def register(connection: Connection, region_id: str, changed: Sequence[FoundNode]) -> None:
    """Make these nodes and their devices as they are; others may be doing the same."""
    if not changed:
        return
    changed = sorted(changed, key=lambda node: node.id)  # others take them in the same order
    _REGISTER[connection.dialect.name].run_many(
        connection,
        [
            {
                "id": node.id,
                "region_id": region_id,
                "name": node.name,
                "cpu_milli": node.cpu_milli,
                "memory_mb": node.memory_mb,
                "disk_gb": node.disk_gb,
                "present": True,
            }
            for node in changed
        ],
    )
    _NONE_PRESENT.run(connection, {"ids": [node.id for node in changed]})
    rows = [
        {
            "node_id": node.id,
            "device_id": device.id,
            "name": device.name,
            "paths": list(device.paths),
            "present": True,
        }
        for node in changed
        for device in node.devices
    ]
    _REGISTER_DEVICES[connection.dialect.name].run_many(connection, rows)
