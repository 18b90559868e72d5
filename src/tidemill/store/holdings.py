"""What the engine's objects have of a node's devices, where the rows may not know it.

The rows decide who gets a device; but a database that was restored from a backup, or made anew, does
not know what was started since. A device is never given to two, so what the engine shows counts before
anything of a machine is given out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, bindparam, exists, select, update

from tidemill.model.lifecycle import STATES, Keeps, State
from tidemill.model.observation import Seen
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import devices, instances, nodes

_HELD = Prepared(select(devices.c.device_id, devices.c.instance_id).where(among(devices.c.node_id, "ids")))
_KNOWN = frozenset(state.value for state in State)
_STRANGERS = Prepared(
    select(devices.c.instance_id)
    .join(nodes, nodes.c.id == devices.c.node_id)
    .where(
        nodes.c.region_id == bindparam("here"),
        devices.c.instance_id.is_not(None),
        ~exists().where(instances.c.id == devices.c.instance_id, instances.c.state != State.RELEASED.value),
    )
)


def hold_as_seen(connection: Connection, node_ids: Collection[str], seen: Mapping[str, Seen]) -> None:
    """Write down which devices of these nodes the engine's objects have, whatever the rows say.

    For machines that are (back) among those that take instances: before anything of them is given
    out, what runs there has to be counted, also what no row knows.
    """
    on_them = devices.c.node_id.in_(list(node_ids))
    held = _HELD.all(connection, {"ids": node_ids})
    there, holders = {row[0] for row in held}, {row[1] for row in held}
    holding = {
        id: one
        for id, one in seen.items()
        if one.devices and (id in holders or not there.isdisjoint(one.devices))
    }
    if not holding:
        return
    rows = connection.execute(
        select(instances.c.id, instances.c.start, instances.c.state).where(instances.c.id.in_(list(holding)))
    )
    for row in rows:
        if row.state not in _KNOWN:  # left alone, with all that it has
            continue
        state, start = State(row.state), holding[row.id].start
        stays = row.start == start and STATES[state].keeps is Keeps.NO  # what should not run is stopped
        if state is not State.RELEASED and (row.start > start or stays):
            del holding[row.id]
    for id, one in holding.items():
        theirs = devices.c.device_id.in_(one.devices)
        connection.execute(update(devices).where(on_them, theirs).values(instance_id=id))
        connection.execute(
            update(devices).where(on_them, ~theirs, devices.c.instance_id == id).values(instance_id=None)
        )


def strangers(connection: Connection, region_id: str) -> set[str]:
    """Who holds devices and is no instance (any more)."""
    return {row[0] for row in _STRANGERS.all(connection, {"here": region_id})}


def free_from(connection: Connection, holders: Collection[str]) -> None:
    """Give back the devices of those that are no instances and have gone from the engine."""
    connection.execute(
        update(devices).where(devices.c.instance_id.in_(list(holders))).values(instance_id=None)
    )
