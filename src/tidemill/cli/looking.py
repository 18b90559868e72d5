"""What an instance is, what happened to it and what it printed: ``show``, ``events``, ``logs``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.completion import instance_names
from tidemill.cli.connection import connected
from tidemill.cli.instances import name_of, price_of, status_of
from tidemill.cli.options import SelfOption, ServerOption
from tidemill.cli.output import Form, Output, Watch, show_one, show_rows, stream_row, watched
from tidemill.cli.resolving import own_or
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, ago, money, number, span

if TYPE_CHECKING:
    from datetime import datetime

    from tidemill.wire.billing import UsageRow
    from tidemill.wire.instances import EventRow, InstanceRow

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Name, id, or the beginning of either; left out with --self.",
        autocompletion=instance_names,
        show_default=False,
    ),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes, until Ctrl-C.")]


def show(
    name: Name = None,
    server: ServerOption = None,
    own: SelfOption = False,
    output: Output = Form.TABLE,
    watch: Watch = None,
) -> None:
    """Show an instance: how to enter it, what it costs.

    Also an ended one, by its id.
    """
    from tidemill.clock import SystemClock

    clock = SystemClock()
    with connected(server, own=own) as client:
        meant = own_or(client, name, server, own=own, released=True).instanceMetadata.instanceId

        def look() -> None:
            row = client.instances.get(meant)
            usage = client.instances.usage(meant) if output is Form.TABLE else None
            show_one(row, _facts(row, usage, clock.now()), output, name=name_of)

        watched(watch, look)


def _facts(row: InstanceRow, usage: UsageRow | None, now: datetime) -> list[tuple[str, str]]:
    about, runtime, spec = row.instanceMetadata, row.instanceRuntimeInfo, row.instanceSpecInfo
    ports = {each.port: each.nodePort for each in spec.nodePorts}
    address = spec.regionInfo.sshAddress
    others = ", ".join(f"{port} at {address}:{node}" for port, node in ports.items() if port != 22)
    gpus = f", {spec.gpuNum} {spec.gpuName}" if spec.gpuNum else ""
    disk = spec.instanceConfiguration.extraDataDiskSizeDB if spec.instanceConfiguration else 0
    billing = spec.billing
    return [
        ("name", name_of(row)),
        ("id", about.instanceId),
        ("status", status_of(row)),
        ("why", ": ".join(filter(None, (runtime.diagnosisReason, runtime.diagnosisMessage)))),
        ("ssh", f"ssh -p {ports[22]} {about.instanceUsername}@{address}" if 22 in ports else ""),
        ("ports", others),
        ("type", f"{spec.instanceTypeName}: {number(spec.cpu)} CPU, {number(spec.memoryGB)} GB{gpus}"),
        ("data disk", f"{disk} GB" if disk else ""),
        ("image", about.imageName),
        ("region", spec.regionInfo.regionName),
        ("price", price_of(row) + (", spot" if spec.isSpotInstance else "")),
        ("term", _term(row, now)),
        ("limit", money(billing.maxSpend, billing.currency) if billing and billing.maxSpend else ""),
        ("ran", span(usage.seconds) if usage else ""),
        ("cost", money(usage.cost + usage.accrued - usage.refunded, usage.currency) if usage else ""),
        ("made", ago(about.createdAt, now)),
        ("running since", ago(runtime.startedAt, now) if runtime.startedAt else ""),
    ]


def _term(row: InstanceRow, now: datetime) -> str:
    billing = row.instanceSpecInfo.billing
    if billing is None or billing.termEndsAt is None:
        return ""
    then = "is renewed" if billing.autoRenew else "stops"
    return f"{then} {ago(billing.termEndsAt, now)}, {billing.termEndsAt:%Y-%m-%d %H:%M} UTC"


def events(
    name: Name = None,
    follow: Follow = False,
    server: ServerOption = None,
    own: SelfOption = False,
    output: Output = Form.TABLE,
) -> None:
    """Show what happened to an instance, and what happens.

    The oldest first; with --follow also what happens next. Without a name and with --follow: to all your
    instances, from now on. ``-o json`` has one object on each line then.
    """
    from tidemill.cli.failures import Exit, Failure

    if name is None and not own and not follow:
        raise Failure("Say which instance, or --follow for all", exit=Exit.USAGE, code="usage")
    with connected(server, own=own) as client:
        if name is None and not own:
            for each in client.events():
                stream_row(each, _line(each, each.instanceName), output, name=each.event)
            return
        meant = own_or(client, name, server, own=own, released=True).instanceMetadata.instanceId
        if not follow:
            rows = list(client.instances.events(meant))
            show_rows(rows, _EVENT_COLUMNS, output, name=lambda row: row.event, empty="Nothing happened yet.")
            return
        after = 0
        for row in client.instances.events(meant):
            stream_row(row, _line(row, ""), output, name=row.event)
            after = row.seq
        for each in client.events(instance_id=meant, after=after):
            stream_row(each, _line(each, ""), output, name=each.event)


_EVENT_COLUMNS = [
    Column("AT", lambda row: _clock_time(row.at), firm=True),
    Column("EVENT", lambda row: row.event),
    Column("FROM", lambda row: row.from_),
    Column("TO", lambda row: row.to),
    Column("REASON", lambda row: row.reason or NOTHING),
    Column("MESSAGE", lambda row: row.message or NOTHING),
]


def _clock_time(at: datetime) -> str:
    """By the reader's own clock."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def _line(row: EventRow, whose: str) -> str:
    move = row.to if row.from_ == row.to else f"{row.from_} -> {row.to}"
    told = ": ".join(filter(None, (row.reason, row.message)))
    parts = [_clock_time(row.at), whose, f"{row.event:<12}", move, told]
    return "  ".join(part for part in parts if part).rstrip()


def logs(
    name: Name = None,
    follow: Follow = False,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only so many last lines.", show_default=False)
    ] = None,
    server: ServerOption = None,
    own: SelfOption = False,
) -> None:
    """Print what the init script and the console printed, as it is."""
    with connected(server, own=own) as client:
        meant = own_or(client, name, server, own=own)
        out = sys.stdout.buffer
        for piece in client.instances.logs(meant.instanceMetadata.instanceId, follow=follow, tail=tail):
            out.write(piece)
            out.flush()
