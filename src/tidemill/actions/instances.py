"""Looking at one's own instances."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Connection

from tidemill.actions.ask import must_reach, not_found
from tidemill.actions.context import Context
from tidemill.model.account import Caller
from tidemill.model.instance import Happening, Instance, InstanceView
from tidemill.model.lifecycle import State, wire_status
from tidemill.store import fleet, instances, offers, reservations


async def list_instances(
    context: Context,
    caller: Caller,
    *,
    page: int,
    size: int,
    status: tuple[str, ...] | None,
    name: str | None,
    region: str | None,
    include_released: bool,
) -> tuple[list[InstanceView], int]:
    """One page of the caller's instances, newest first, and how many there are in all pages."""
    states = None if status is None else {state for state in State if wire_status(state) in status}

    def work(connection: Connection) -> tuple[list[InstanceView], int]:
        found, total = fleet.page(
            connection,
            caller.user.id,
            offset=(page - 1) * size,
            limit=size,
            states=states,
            name=name,
            region_id=region,
            include_released=include_released,
        )
        return _views(connection, found), total

    return await context.database.read(work)


async def get_instance(context: Context, caller: Caller, instance_id: str) -> InstanceView:
    """One of the caller's instances, also a released one. Raises NotFound."""
    must_reach(caller, instance_id)

    def work(connection: Connection) -> InstanceView:
        instance = instances.get(connection, instance_id, user_id=caller.user.id)
        if instance is None:
            raise not_found()
        return _views(connection, [instance])[0]

    return await context.database.read(work)


async def history(
    context: Context, caller: Caller, instance_id: str, *, after: int, limit: int
) -> list[Happening]:
    """What happened to one of the caller's instances, oldest first. Raises NotFound."""
    must_reach(caller, instance_id)

    def work(connection: Connection) -> list[Happening]:
        if instances.get(connection, instance_id, user_id=caller.user.id) is None:
            raise not_found()
        return instances.history(connection, instance_id, after=after, limit=limit)

    return await context.database.read(work)


def _views(connection: Connection, found: Sequence[Instance]) -> list[InstanceView]:
    ports = reservations.ports_of(connection, [instance.id for instance in found])
    regions = {region.id: region for region in offers.all_regions(connection, offered=False)}
    return [
        InstanceView(
            instance=instance,
            region=regions[instance.region_id],
            ports=ports.get(instance.id, ()),
            host_key=_public_host_key(instance.host_key),
        )
        for instance in found
    ]


def _public_host_key(seed: bytes) -> str:
    """The line that a known_hosts file wants after the host's name."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
