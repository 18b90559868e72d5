"""What of each node is given to whom: CPU, memory, devices and node ports.

Everything here runs inside the transaction of whoever needs it; two launches can never be given
the same device or port, because the row (or the guarded update) decides.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from tidemill.model.errors import OutOfStock, Unavailable
from tidemill.model.instance import NodePort
from tidemill.model.placement import Need, Room, choose
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import devices, node_ports, nodes, reservations

RANDOM_TRIES = 8
CANDIDATES = 32  # nodes with room that placement chooses from

# The same words on both databases; SQLAlchemy would want one statement for each.
_GIVE_PORT = Prepared(
    text(
        "INSERT INTO node_ports (node_id, node_port, instance_id, port) "
        "VALUES (:node_id, :node_port, :instance_id, :port) ON CONFLICT DO NOTHING"
    )
)

_CPU_LEFT = nodes.c.cpu_milli - nodes.c.cpu_used
_MEMORY_LEFT = nodes.c.memory_mb - nodes.c.memory_used
_HAS_ROOM = (
    nodes.c.region_id == bindparam("region_id"),
    nodes.c.present,
    bindparam("cpu_milli") <= _CPU_LEFT,
    bindparam("memory_mb") <= _MEMORY_LEFT,
)
# In the order of an index, so that neither looks at every node: those in front are filled first.
_SOME_ROOMS = Prepared(
    select(nodes.c.id, _CPU_LEFT, _MEMORY_LEFT).where(*_HAS_ROOM).order_by(nodes.c.id).limit(CANDIDATES)
)
_SOME_ROOMS_WITH_DEVICES = Prepared(
    select(devices.c.node_id, func.min(_CPU_LEFT), func.min(_MEMORY_LEFT), func.count())
    .join(nodes, nodes.c.id == devices.c.node_id)
    .where(
        devices.c.name == bindparam("gpu_name"),
        devices.c.present,
        devices.c.instance_id.is_(None),
        *_HAS_ROOM,
    )
    .group_by(devices.c.node_id)
    .having(func.count() >= bindparam("gpu_num"))
    .order_by(devices.c.node_id)
    .limit(CANDIDATES)
)
_TAKE = Prepared(
    update(nodes)
    .where(
        nodes.c.id == bindparam("node"),
        nodes.c.present,
        nodes.c.cpu_milli - nodes.c.cpu_used >= bindparam("cpu"),
        nodes.c.memory_mb - nodes.c.memory_used >= bindparam("memory"),
    )
    .values(
        cpu_used=nodes.c.cpu_used + bindparam("cpu"), memory_used=nodes.c.memory_used + bindparam("memory")
    )
)
_RESERVE = Prepared(insert(reservations), columns=("instance_id", "node_id", "cpu_milli", "memory_mb"))
_DEVICES = Prepared(
    select(devices.c.device_id, devices.c.name, devices.c.paths)
    .where(devices.c.instance_id == bindparam("holder"))
    .order_by(devices.c.device_id)
)
_SOME_FREE = Prepared(
    select(devices.c.device_id)
    .where(
        devices.c.node_id == bindparam("node"),
        devices.c.name == bindparam("model"),
        devices.c.present,
        devices.c.instance_id.is_(None),
    )
    .order_by(devices.c.device_id)
    .limit(bindparam("most"))
)
_TAKE_DEVICES = Prepared(
    update(devices)
    .where(
        devices.c.node_id == bindparam("node"),
        among(devices.c.device_id, "ids"),
        devices.c.instance_id.is_(None),
    )
    .values(instance_id=bindparam("holder"))
)
_PORTS_OF_ONE = Prepared(
    select(node_ports.c.port, node_ports.c.node_port)
    .where(node_ports.c.instance_id == bindparam("holder"))
    .order_by(node_ports.c.port)
)
_PORTS = (
    select(node_ports.c.instance_id, node_ports.c.port, node_ports.c.node_port)
    .where(node_ports.c.instance_id.in_(bindparam("ids", expanding=True)))
    .order_by(node_ports.c.instance_id, node_ports.c.port)
)
_RELEASE = Prepared(
    delete(reservations)
    .where(reservations.c.instance_id == bindparam("holder"))
    .returning(reservations.c.node_id, reservations.c.cpu_milli, reservations.c.memory_mb)
)
_FREE_DEVICES = Prepared(
    update(devices).where(devices.c.instance_id == bindparam("holder")).values(instance_id=None)
)
_HOLDS = Prepared(select(reservations.c.node_id).where(reservations.c.instance_id == bindparam("holder")))
_GIVE_BACK = Prepared(
    update(nodes)
    .where(nodes.c.id == bindparam("node"))
    .values(
        cpu_used=nodes.c.cpu_used - bindparam("cpu"), memory_used=nodes.c.memory_used - bindparam("memory")
    )
)


def place(connection: Connection, region_id: str, need: Need, gpu_name: str) -> str | None:
    """The node of the region that an instance goes to; None when none has room."""
    asked = {"region_id": region_id, "cpu_milli": need.cpu_milli, "memory_mb": need.memory_mb}
    if need.devices:
        rows = _SOME_ROOMS_WITH_DEVICES.all(
            connection, asked | {"gpu_name": gpu_name, "gpu_num": need.devices}
        )
    else:
        rows = [(*row, 0) for row in _SOME_ROOMS.all(connection, asked)]
    room = choose((Room(id, cpu, memory, free) for id, cpu, memory, free in rows), need)
    return None if room is None else room.node_id


def rooms(connection: Connection, gpu_name: str) -> dict[str, list[Room]]:
    """What every present node has left, by region; devices of the model ``gpu_name``."""
    free: dict[str, int] = {}
    if gpu_name:
        counted = (
            select(devices.c.node_id, func.count())
            .where(devices.c.name == gpu_name, devices.c.present, devices.c.instance_id.is_(None))
            .group_by(devices.c.node_id)
        )
        free = {row[0]: row[1] for row in connection.execute(counted)}
    found: dict[str, list[Room]] = {}
    for row in connection.execute(
        select(
            nodes.c.id,
            nodes.c.region_id,
            (nodes.c.cpu_milli - nodes.c.cpu_used).label("cpu"),
            (nodes.c.memory_mb - nodes.c.memory_used).label("memory"),
        ).where(nodes.c.present)
    ):
        found.setdefault(row.region_id, []).append(Room(row.id, row.cpu, row.memory, free.get(row.id, 0)))
    return found


def reserve_again(connection: Connection, instance_id: str, node_id: str, need: Need, gpu_name: str) -> None:
    """As :func:`reserve`, for an instance that may have its share still: then nothing happens."""
    if _HOLDS.first(connection, {"holder": instance_id}) is None:
        reserve(connection, instance_id, node_id, need, gpu_name)


def take_what_it_has(
    connection: Connection, instance_id: str, node_id: str, need: Need, gpu_name: str
) -> None:
    """As :func:`reserve_again`, for an instance that runs already: what is so cannot be refused.

    Its devices were written down when its machine was registered (``holdings.hold_as_seen``).
    """
    if _HOLDS.first(connection, {"holder": instance_id}) is None:
        usage = {
            "cpu_used": nodes.c.cpu_used + need.cpu_milli,
            "memory_used": nodes.c.memory_used + need.memory_mb,
        }
        connection.execute(update(nodes).where(nodes.c.id == node_id).values(usage))
        _write_share(connection, instance_id, node_id, need)
        _take_devices(connection, instance_id, node_id, need.devices, gpu_name)


def reserve(connection: Connection, instance_id: str, node_id: str, need: Need, gpu_name: str) -> None:
    """Give the instance its share of the node. Raises OutOfStock."""
    if _TAKE.run(connection, {"node": node_id, "cpu": need.cpu_milli, "memory": need.memory_mb}) != 1:
        raise OutOfStock(
            "The machine that holds this instance's disks has no room for it now; try again later"
        )
    _write_share(connection, instance_id, node_id, need)
    if need.devices and not _take_devices(connection, instance_id, node_id, need.devices, gpu_name):
        raise OutOfStock(
            f"The machine that holds this instance's disks has no {need.devices} {gpu_name} free now"
        )


def _write_share(connection: Connection, instance_id: str, node_id: str, need: Need) -> None:
    _RESERVE.run(
        connection,
        {
            "instance_id": instance_id,
            "node_id": node_id,
            "cpu_milli": need.cpu_milli,
            "memory_mb": need.memory_mb,
        },
    )


def _take_devices(connection: Connection, instance_id: str, node_id: str, count: int, gpu_name: str) -> bool:
    """Give it free devices until it has ``count``; False when there are too few.

    What it has already is what it was seen running with (:mod:`tidemill.store.holdings`).
    """
    missing = max(0, count - len(devices_of(connection, instance_id)))
    free = _SOME_FREE.all(connection, {"node": node_id, "model": gpu_name, "most": missing})
    taken = {"node": node_id, "ids": [row[0] for row in free], "holder": instance_id}
    return _TAKE_DEVICES.run(connection, taken) == missing


def release(connection: Connection, instance_id: str) -> None:
    """Give back what the instance held of its node; nothing held is fine."""
    held = _RELEASE.first(connection, {"holder": instance_id})
    if held is None:
        return
    node_id, cpu, memory = held
    _GIVE_BACK.run(connection, {"node": node_id, "cpu": cpu, "memory": memory})
    _FREE_DEVICES.run(connection, {"holder": instance_id})


def devices_of(connection: Connection, instance_id: str) -> Sequence[Sequence[Any]]:
    """The devices an instance holds: rows of device id, name and paths."""
    return _DEVICES.all(connection, {"holder": instance_id})


def give_ports(
    connection: Connection,
    instance_id: str,
    node_id: str,
    ports: Sequence[int],
    allowed: tuple[int, int],
) -> None:
    """Give each of ``ports`` a node port of its own. Raises Unavailable when the range is used up."""
    for port in ports:
        _give_port(connection, instance_id, node_id, port, allowed)


def _give_port(
    connection: Connection, instance_id: str, node_id: str, port: int, allowed: tuple[int, int]
) -> None:
    low, high = allowed
    row = {"node_id": node_id, "instance_id": instance_id, "port": port}
    for _ in range(RANDOM_TRIES):
        drawn = row | {"node_port": low + secrets.randbelow(high - low + 1)}
        if _GIVE_PORT.run(connection, drawn) == 1:
            return
    used = set(
        connection.execute(select(node_ports.c.node_port).where(node_ports.c.node_id == node_id)).scalars()
    )
    for node_port in range(low, high + 1):
        if node_port not in used:
            connection.execute(insert(node_ports), row | {"node_port": node_port})
            return
    raise Unavailable(
        f"All node ports from {low} to {high} are in use; terminate an instance, or ask the operator "
        "to widen the setting node_ports",
        code="nodePortsUsedUp",
    )


def give_another_port(
    connection: Connection, instance_id: str, node_id: str, taken: int, allowed: tuple[int, int]
) -> int | None:
    """Give the instance another node port for one that somebody else was found to have; the new one.

    None when it does not hold that port, or none is left.
    """
    rows = connection.execute(select(node_ports.c.node_port).where(node_ports.c.node_id == node_id)).scalars()
    low, high = allowed
    free = sorted(set(range(low, high + 1)) - {taken, *rows})
    if not free:
        return None
    chosen = secrets.choice(free)
    moved = connection.execute(
        update(node_ports)
        .where(
            node_ports.c.node_id == node_id,
            node_ports.c.node_port == taken,
            node_ports.c.instance_id == instance_id,
        )
        .values(node_port=chosen)
    )
    return chosen if moved.rowcount == 1 else None


def ports_of(connection: Connection, instance_ids: Sequence[str]) -> dict[str, tuple[NodePort, ...]]:
    """Published ports by instance, in the order of the ports inside."""
    found: dict[str, list[NodePort]] = {}
    for row in connection.execute(_PORTS, {"ids": list(instance_ids)}):
        found.setdefault(row.instance_id, []).append(NodePort(row.port, row.node_port))
    return {instance_id: tuple(ports) for instance_id, ports in found.items()}


def ports_of_one(connection: Connection, instance_id: str) -> tuple[NodePort, ...]:
    """The published ports of one instance."""
    return tuple(
        NodePort(port, node_port)
        for port, node_port in _PORTS_OF_ONE.all(connection, {"holder": instance_id})
    )


def release_ports(connection: Connection, instance_id: str) -> None:
    """Give an instance's node ports back, at its very end."""
    connection.execute(delete(node_ports).where(node_ports.c.instance_id == instance_id))
