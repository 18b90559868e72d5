"""One private bridge network per tenant, made when first needed and removed with its last member.

Subnets come from a pool of our own: Docker's default pool ends after about thirty networks.
A network whose name is remembered may be gone all the same (another process, an operator); the
engine then says so when a container starts, and the driver asks :meth:`Networks.ensure` again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import weakref
import zlib
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from typing import Any

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import NoRoom
from tidemill.drivers.docker.engine import Engine
from tidemill.drivers.docker.firewall import Firewall
from tidemill.drivers.docker.spec import DEPLOYMENT, TENANT, network_name

TRIES = 20  # subnets to try when the engine says that one overlaps with something we cannot see
SUBNET_BITS = 24
IN_USE = "it is in use"


class Networks:
    """The tenants' networks of one deployment, with subnets cut from ``pool``."""

    def __init__(self, engine: Engine, deployment: str, pool: str) -> None:
        self._engine = engine
        self._deployment = deployment
        self._pool = IPv4Network(pool)
        self._firewall = Firewall(deployment, pool, can_be_set=engine.is_local)
        self._there: set[str] = set()
        self._users: dict[str, int] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._choosing = asyncio.Lock()

    @asynccontextmanager
    async def using(self, tenant: str) -> AsyncGenerator[None]:
        """The tenant's network is there, and is not removed by us while the block runs."""
        self._users[tenant] = self._users.get(tenant, 0) + 1
        try:
            if tenant not in self._there:
                await self.ensure(tenant)
            yield
        finally:
            self._users[tenant] -= 1
            if not self._users[tenant]:
                del self._users[tenant]

    async def ensure(self, tenant: str) -> None:
        """Make the tenant's network unless it is there. Raises NoRoom when the pool is used up."""
        async with self._lock(tenant):
            name = network_name(self._deployment, tenant)
            async with self._choosing:  # two at once would choose the same subnet
                await self._firewall.ensure()
                rows = await self._engine.list_networks()
                if not any(row["Name"] == name for row in rows):
                    await self._create(name, tenant, rows)
                await self._remove_doubles(name, rows)
            self._there.add(tenant)

    async def remove_if_empty(self, tenant: str) -> str:
        """Remove the tenant's network when none of its containers is left, stopped ones included.

        Returns why it is still there, or "".
        """
        async with self._lock(tenant):
            labels = {DEPLOYMENT: self._deployment, TENANT: tenant}
            if tenant in self._users or await self._engine.list_containers(labels):
                return IN_USE
            if tenant in self._users:  # while we looked; it counts on the network being there
                return IN_USE
            self._there.discard(tenant)
            refused = ""
            async with self._choosing:
                name = network_name(self._deployment, tenant)
                for row in await self._engine.list_networks():
                    if row["Name"] == name:
                        refused = await self.remove(row["Id"]) or refused
                if not await self._has_any():
                    await self._firewall.remove()
                    if await self._has_any():  # another server made one meanwhile
                        await self._firewall.ensure()
            return refused

    async def remove(self, id: str) -> str:
        """Remove one, by id or name, that may be gone already; why the engine lets it stay, or ""."""
        try:
            await self._engine.remove_network(id)
        except DockerError as error:
            if error.status == 403:  # it has members, or the engine has lost count of them
                return error.message
            if error.status != 404:
                raise
        return ""

    async def sweep(self) -> None:
        """Remove every network of this deployment that has no members; repairs what a crash left."""
        for row in await self._engine.list_networks():
            if self._is_ours(row):
                await self.remove_if_empty(row["Labels"][TENANT])

    async def _has_any(self) -> bool:
        return any(self._is_ours(row) for row in await self._engine.list_networks())

    def _is_ours(self, row: dict[str, Any]) -> bool:
        labels: dict[str, str] = row.get("Labels") or {}
        return labels.get(DEPLOYMENT) == self._deployment and TENANT in labels

    async def _remove_doubles(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """The engine lets two networks have one name when they are made at once; the older counts."""
        same = sorted((row["Created"], row["Id"]) for row in rows if row["Name"] == name)
        for _, id in same[1:]:
            await self.remove(id)

    async def _create(self, name: str, tenant: str, rows: Iterable[dict[str, Any]]) -> None:
        tried = 0
        for subnet in free_subnets(self._pool, rows, tenant):
            try:
                await self._engine.create_network(
                    {
                        "Name": name,
                        "CheckDuplicate": True,
                        "Driver": "bridge",
                        "Labels": {DEPLOYMENT: self._deployment, TENANT: tenant},
                        "IPAM": {"Config": [{"Subnet": str(subnet), "Gateway": str(subnet[1])}]},
                    }
                )
            except DockerError as error:
                if error.status == 409:
                    return
                tried += 1
                if "overlap" not in error.message.lower() or tried == TRIES:
                    raise
            else:
                return
        raise NoRoom(
            f"The address pool for private networks ({self._pool}) is used up; "
            "the operator can set a larger one (tenant_networks)"
        )

    def _lock(self, tenant: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant, asyncio.Lock())


def free_subnets(pool: IPv4Network, rows: Iterable[dict[str, Any]], tenant: str) -> Iterator[IPv4Network]:
    """Subnets of ``pool`` that no network in ``rows`` (the engine's listing) uses.

    The first one offered depends on the tenant, so that two deployments on one machine and one
    pool seldom reach for the same.
    """
    used = list(_used(rows))
    bits = max(SUBNET_BITS, min(pool.prefixlen, 30))
    count = 2 ** (bits - pool.prefixlen)
    size = 2 ** (32 - bits)
    first = zlib.crc32(tenant.encode()) % count
    for index in range(count):
        address = int(pool.network_address) + (first + index) % count * size
        subnet = IPv4Network((address, bits))
        if not any(subnet.overlaps(other) for other in used):
            yield subnet


def _used(rows: Iterable[dict[str, Any]]) -> Iterator[IPv4Network]:
    for row in rows:
        ipam: dict[str, Any] = row.get("IPAM") or {}
        configs: list[dict[str, str]] = ipam.get("Config") or []
        for config in configs:
            subnet = ipaddress.ip_network(config["Subnet"], strict=False) if "Subnet" in config else None
            if isinstance(subnet, IPv4Network):
                yield subnet
