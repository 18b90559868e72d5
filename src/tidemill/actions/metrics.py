"""What the server counted, with what the database knows at this moment."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.metrics import Metrics
from tidemill.model.errors import Unavailable
from tidemill.store import census, facts, findings
from tidemill.store.census import Census

MIB = 2**20
PATIENCE = 5.0  # seconds after which the database counts as away; what was counted in memory is shown


async def scrape(context: Context) -> bytes:
    """Everything in Prometheus' text format; without the database, what there is without it."""
    now = context.clock.now()

    def work(connection: Connection) -> tuple[Census, dict[str, int], bool]:
        held = facts.get(connection, facts.RESTORED_AT) is not None
        return census.take(connection, now), findings.open_by_region(connection), held

    try:
        async with asyncio.timeout(PATIENCE):
            counted, orphans, held = await context.database.read_much(work)
    except (Unavailable, TimeoutError):
        _forget(context.metrics)
        context.metrics.database_up.set(0.0)
        return context.metrics.text()
    _forget(context.metrics)
    context.metrics.database_up.set(1.0)
    context.metrics.held.set(float(held))
    for region in counted.leases:
        context.metrics.orphans.set(float(orphans.get(region, 0)), region)
        due = counted.oldest_due.get(region)
        context.metrics.oldest_due.set(0.0 if due is None else (now - due).total_seconds(), region)
    _show(context.metrics, counted)
    return context.metrics.text()


def _show(metrics: Metrics, counted: Census) -> None:
    for labels, many in counted.instances.items():
        metrics.instances.set(float(many), *labels)
    for role, many in counted.servers.items():
        metrics.servers.set(float(many), role)
    for region, many in counted.leases.items():
        metrics.leases.set(float(many), region)
    for labels, many in counted.devices.items():
        metrics.devices.set(float(many), *labels)
    for region, (given, whole) in counted.cpu_milli.items():
        metrics.cpu.set(given / 1000, region, "given")
        metrics.cpu.set((whole - given) / 1000, region, "free")
    for region, (given, whole) in counted.memory_mb.items():
        metrics.memory.set(float(given * MIB), region, "given")
        metrics.memory.set(float((whole - given) * MIB), region, "free")


def _forget(metrics: Metrics) -> None:
    """What was read before is of no interest any more."""
    for family in (
        metrics.instances,
        metrics.servers,
        metrics.oldest_due,
        metrics.leases,
        metrics.devices,
        metrics.cpu,
        metrics.memory,
        metrics.orphans,
        metrics.held,
    ):
        family.clear()
