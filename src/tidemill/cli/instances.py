"""Instances, as those who rent see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tidemill.cli.connection import connected
from tidemill.cli.options import SelfOption, ServerOption
from tidemill.cli.output import Form, Output, Watch, show_rows, watched
from tidemill.cli.resolving import INSTANCE_PREFIX
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, ago, money, when

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.client.raw import Fields
    from tidemill.wire.instances import InstanceRow

Row: TypeAlias = "InstanceRow | Fields"  # a model, or what the server said, with the same names
ID = "instanceMetadata.instanceId"
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
                Column("TYPE", lambda row: str(row.instanceSpecInfo.instanceTypeName or NOTHING)),
                Column("PRICE", price_of, right=True, firm=True),
                Column("REGION", lambda row: str(row.instanceSpecInfo.regionInfo.regionName or NOTHING)),
                Column("MADE", lambda row: ago(when(row.instanceMetadata.createdAt), now), right=True),
            ]
            rows = _listed(client, status, released=all)
            empty = "There is no instance." if all or status else "No instance is there; ended ones: --all"
            show_rows(rows, columns, output, name=name_of, empty=empty)

        watched(watch, look)


def _listed(client: Client, status: list[str] | None, *, released: bool) -> list[Fields]:
    """Without the models, which take longer to load than all the rest of the command.

    Raises NotUnderstood where a row has not what every row has.
    """
    from tidemill.client.raw import Fields
    from tidemill.client.sending import not_understood

    wanted = ({"status": status} if status else {}) | ({"includeReleased": True} if released else {})
    rows = list(
        client.raw.rows("/api/instance/list", "instances", {"filter": wanted} if wanted else {}, identity=ID)
    )
    for row in rows:
        spec = row.instanceSpecInfo
        region = spec.regionInfo if isinstance(spec, Fields) else None
        if not all(isinstance(part, Fields) for part in (row.instanceRuntimeInfo, spec, region)):
            raise not_understood("an instance says too little of itself")
        billing = spec.billing
        priced = isinstance(billing, Fields) and isinstance(billing.price, int | float | None)
        if billing is not None and not priced:
            raise not_understood("an instance has a price that is no number")
    return rows


def name_of(row: Row) -> str:
    """What it is called; its id, where a service gives no names."""
    about = row.instanceMetadata
    return str(about.name or about.instanceName or about.instanceId)


def short_id(row: Row) -> str:
    """Its beginning without what all ids have; commands take it for the whole."""
    return row.instanceMetadata.instanceId.removeprefix(INSTANCE_PREFIX)[:SHORT_ID]


def status_of(row: Row) -> str:
    """With how far the image is, while it is pulled."""
    runtime = row.instanceRuntimeInfo
    return str(runtime.status) if runtime.progress is None else f"{runtime.status} {runtime.progress}%"


def price_of(row: Row) -> str:
    """``1.50 EUR/h``; HPC-AI's service does not say."""
    billing = row.instanceSpecInfo.billing
    if billing is None:
        return NOTHING
    return money(billing.price or 0, str(billing.currency or "")) + PER.get(str(billing.chargeMode), "")
