"""Instances, as those who rent see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.access import SelfOption, ServerOption
from tidemill.cli.connection import connected
from tidemill.cli.output import Form, Output, Watch, show_rows, watched
from tidemill.cli.resolving import INSTANCE_PREFIX
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, ago, money

if TYPE_CHECKING:
    from tidemill.wire.instances import InstanceRow

SHORT_ID = 8  # characters of an id that are shown: as good as always unique, and enough to name it
PER = {"perHour": "/h", "tidePerHour": "/h tide", "perDay": "/day", "perWeek": "/week", "perMonth": "/month"}


def ls(
    all: Annotated[bool, typer.Option("--all", "-a", help="Also those that have ended.")] = False,
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="STATUS", help="Only those, such as Running; may be said again."),
    ] = None,
    server: ServerOption = None,
    own: SelfOption = False,
    output: Output = Form.TABLE,
    watch: Watch = None,
) -> None:
    """List your instances, the newest first."""
    from tidemill.clock import SystemClock

    clock = SystemClock()
    with connected(server, own=own) as client:

        def look() -> None:
            now = clock.now()
            columns = [
                Column("NAME", name_of),
                Column("ID", short_id, firm=True),
                Column("STATUS", status_of),
                Column("TYPE", lambda row: row.instanceSpecInfo.instanceTypeName),
                Column("PRICE", price_of, right=True, firm=True),
                Column("REGION", lambda row: row.instanceSpecInfo.regionInfo.regionName),
                Column("MADE", lambda row: ago(row.instanceMetadata.createdAt, now), right=True),
            ]
            rows = list(client.instances.list(status=status, include_released=all))
            empty = "There is no instance." if all or status else "No instance is there; ended ones: --all"
            show_rows(rows, columns, output, name=name_of, empty=empty)

        watched(watch, look)


def name_of(row: InstanceRow) -> str:
    """What it is called; its id, where a service gives no names."""
    about = row.instanceMetadata
    return about.name or about.instanceName or about.instanceId


def short_id(row: InstanceRow) -> str:
    """Its beginning without what all ids have; commands take it for the whole."""
    return row.instanceMetadata.instanceId.removeprefix(INSTANCE_PREFIX)[:SHORT_ID]


def status_of(row: InstanceRow) -> str:
    """With how far the image is, while it is pulled."""
    runtime = row.instanceRuntimeInfo
    return runtime.status if runtime.progress is None else f"{runtime.status} {runtime.progress}%"


def price_of(row: InstanceRow) -> str:
    """``1.50 EUR/h``; HPC-AI's service does not say."""
    billing = row.instanceSpecInfo.billing
    if billing is None:
        return NOTHING
    return money(billing.price, billing.currency) + PER.get(billing.chargeMode, "")
