"""What of each node is given to whom: CPU, memory, devices and node ports.

Everything here runs inside the transaction of whoever needs it; two launches can never be given
the same device or port, because the row (or the guarded update) decides.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, text, update

from tidemill.model.errors import OutOfStock, Unavailable
from tidemill.model.instance import NodePort
from tidemill.model.placement import Need, Room, choose
from tidemill.store.schema import devices, node_ports, nodes, reservations

RANDOM_TRIES = 8
CANDIDATES = 32  # nodes that placement looks at: the fullest ones that have room

# The same words on both databases; SQLAlchemy would want one statement for each.
_GIVE_PORT = text(
    "INSERT INTO node_ports (node_id, node_port, instance_id, port) "
    "VALUES (:node_id, :node_port, :instance_id, :port) ON CONFLICT DO NOTHING"
)

_CPU_LEFT = nodes.c.cpu_milli - nodes.c.cpu_used
_MEMORY_LEFT = nodes.c.memory_mb - nodes.c.memory_used
_ROOMS = (
    select(nodes.c.id, _CPU_LEFT.label("cpu"), _MEMORY_LEFT.label("memory"))
    .where(
        nodes.c.region_id == bindparam("region_id"),
        nodes.c.present,
        bindparam("cpu_milli") <= _CPU_LEFT,
        bindparam("memory_mb") <= _MEMORY_LEFT,
    )
    .order_by(_MEMORY_LEFT, _CPU_LEFT, nodes.c.id)
)
_SOME_ROOMS = _ROOMS.limit(CANDIDATES)
_ROOMS_WITH_DEVICES = _ROOMS.where(
    nodes.c.id.in_(
        select(devices.c.node_id)
        .where(devices.c.name == bindparam("gpu_name"), devices.c.present, devices.c.instance_id.is_(None))
        .group_by(devices.c.node_id)
        .having(func.count() >= bindparam("gpu_num"))
    )
).limit(CANDIDATES)
_TAKE = (
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
_RESERVE = insert(reservations)
_DEVICES = (
    select(devices.c.device_id, devices.c.name, devices.c.paths)
    .where(devices.c.instance_id == bindparam("holder"))
    .order_by(devices.c.device_id)
)
_PORTS = (
    select(node_ports.c.instance_id, node_ports.c.port, node_ports.c.node_port)
    .where(node_ports.c.instance_id.in_(bindparam("ids", expanding=True)))
    .order_by(node_ports.c.instance_id, node_ports.c.port)
)
_GIVE_BACK = (
    update(nodes)
    .where(nodes.c.id == bindparam("node"))
    .values(
        cpu_used=nodes.c.cpu_used - bindparam("cpu"), memory_used=nodes.c.memory_used - bindparam("memory")
    )
)


def free_devices(connection: Connection, name: str, node_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Free devices of one model, by node."""
    statement = (
        select(devices.c.node_id, func.count())
        .where(devices.c.name == name, devices.c.present, devices.c.instance_id.is_(None))
        .group_by(devices.c.node_id)
    )
    if node_ids is not None:
        statement = statement.where(devices.c.node_id.in_(node_ids))
    return {row[0]: row[1] for row in connection.execute(statement)}


def place(connection: Connection, region_id: str, need: Need, gpu_name: str) -> str | None:
    """The node of the region that an instance goes to; None when none has room."""
    asked = {"region_id": region_id, "cpu_milli": need.cpu_milli, "memory_mb": need.memory_mb}
    free: dict[str, int] = {}
    if need.devices:
        asked |= {"gpu_name": gpu_name, "gpu_num": need.devices}
        rows = connection.execute(_ROOMS_WITH_DEVICES, asked).all()
        free = free_devices(connection, gpu_name, [row.id for row in rows])
    else:
        rows = connection.execute(_SOME_ROOMS, asked).all()
    room = choose((Room(row.id, row.cpu, row.memory, free.get(row.id, 0)) for row in rows), need)
    return None if room is None else room.node_id


def rooms(connection: Connection, gpu_name: str) -> dict[str, list[Room]]:
    """What every present node has left, by region; devices of the model ``gpu_name``."""
    free = free_devices(connection, gpu_name) if gpu_name else {}
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
    held = connection.execute(
        select(reservations.c.node_id).where(reservations.c.instance_id == instance_id)
    ).first()
    if held is None:
        reserve(connection, instance_id, node_id, need, gpu_name)


def reserve(connection: Connection, instance_id: str, node_id: str, need: Need, gpu_name: str) -> None:
    """Give the instance its share of the node. Raises OutOfStock."""
    taken = connection.execute(_TAKE, {"node": node_id, "cpu": need.cpu_milli, "memory": need.memory_mb})
    if taken.rowcount != 1:
        raise OutOfStock(
            "The machine that holds this instance's disks has no room for it now; try again later"
        )
    connection.execute(
        _RESERVE,
        {
            "instance_id": instance_id,
            "node_id": node_id,
            "cpu_milli": need.cpu_milli,
            "memory_mb": need.memory_mb,
        },
    )
    if need.devices:
        _take_devices(connection, instance_id, node_id, need.devices, gpu_name)


def _take_devices(connection: Connection, instance_id: str, node_id: str, count: int, gpu_name: str) -> None:
    free = (
        connection.execute(
            select(devices.c.device_id)
            .where(
                devices.c.node_id == node_id,
                devices.c.name == gpu_name,
                devices.c.present,
                devices.c.instance_id.is_(None),
            )
            .order_by(devices.c.device_id)
            .limit(count)
        )
        .scalars()
        .all()
    )
    taken = connection.execute(
        update(devices)
        .where(devices.c.node_id == node_id, devices.c.device_id.in_(free), devices.c.instance_id.is_(None))
        .values(instance_id=instance_id)
    ).rowcount
    if taken != count:
        raise OutOfStock(f"The machine that holds this instance's disks has no {count} {gpu_name} free now")


def release(connection: Connection, instance_id: str) -> None:
    """Give back what the instance held of its node; nothing held is fine."""
    held = connection.execute(
        delete(reservations)
        .where(reservations.c.instance_id == instance_id)
        .returning(reservations.c.node_id, reservations.c.cpu_milli, reservations.c.memory_mb)
    ).first()
    if held is None:
        return
    connection.execute(_GIVE_BACK, {"node": held.node_id, "cpu": held.cpu_milli, "memory": held.memory_mb})
    connection.execute(update(devices).where(devices.c.instance_id == instance_id).values(instance_id=None))


def devices_of(connection: Connection, instance_id: str) -> Sequence[Row[str, str, list[str]]]:
    """The devices an instance holds: rows of ``device_id``, ``name``, ``paths``."""
    return connection.execute(_DEVICES, {"holder": instance_id}).all()


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
        if connection.execute(_GIVE_PORT, drawn).rowcount == 1:
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


def ports_of(connection: Connection, instance_ids: Sequence[str]) -> dict[str, tuple[NodePort, ...]]:
    """Published ports by instance, in the order of the ports inside."""
    found: dict[str, list[NodePort]] = {}
    for row in connection.execute(_PORTS, {"ids": list(instance_ids)}):
        found.setdefault(row.instance_id, []).append(NodePort(row.port, row.node_port))
    return {instance_id: tuple(ports) for instance_id, ports in found.items()}


def release_ports(connection: Connection, instance_id: str) -> None:
    """Give an instance's node ports back, at its very end."""
    connection.execute(delete(node_ports).where(node_ports.c.instance_id == instance_id))
