"""The caller's money: ``balance``, ``statement``, ``usage``, ``ledger``, ``cap``, and ``top``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.lazy import commands
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, Watch, show_one, show_rows, watched
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, money, span

if TYPE_CHECKING:
    from tidemill.wire.billing import BalanceAnswer, PostingInfo, UsageRow

Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="From then on: 2026-11-01, 2026-11-01T12:00+01:00, or 24h, 7d ago.",
        show_default=False,
    ),
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Before then.", show_default=False)]
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class StatementForm(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class Per(StrEnum):
    HOUR = "hour"
    MONTH = "month"


def instant(said: str | None) -> datetime | None:
    """A time as people type it: a date or time (local unless it says otherwise), or ``24h`` ago.

    Raises Failure.
    """
    if said is None:
        return None
    from datetime import timedelta

    from tidemill.clock import SystemClock

    now = SystemClock().now()
    if said[-1:] in UNITS and said[:-1].isdecimal() and len(said) < 8:
        return now - timedelta(seconds=int(said[:-1]) * UNITS[said[-1]])
    try:
        return datetime.fromisoformat(said).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Failure(
            f"{said!r} is no time", exit=Exit.USAGE, code="usage", next="Write 2026-11-01, or 24h, or 7d"
        ) from None


def balance(server: ServerOption = None, output: Output = Form.TABLE, watch: Watch = None) -> None:
    """Show what you own, and for how long it lasts."""
    with connected(server) as client:

        def look() -> None:
            found = client.billing.balance()
            show_one(found, _owned(found), output, name=lambda row: money(_spendable(row)))

        watched(watch, look)


def _spendable(found: BalanceAnswer) -> Decimal:
    parts = (found.availableBalance, found.availableVoucherAmount, found.availableCreditAmount)
    return sum((Decimal(str(part)) for part in parts), Decimal())


def _owned(found: BalanceAnswer) -> list[tuple[str, str]]:
    hours = found.hoursLeft
    lasts = "nothing costs anything now" if hours is None else f"for {span(hours * 3600)} at the present rate"
    return [
        ("can be spent", money(_spendable(found), found.currency)),
        ("of vouchers", money(found.availableVoucherAmount) if found.availableVoucherAmount else ""),
        ("of monthly credit", money(found.availableCreditAmount) if found.availableCreditAmount else ""),
        ("set aside", money(found.held) if found.held else ""),
        ("lasts", lasts),
    ]


def statement(
    since: Since = None,
    until: Until = None,
    output: Annotated[
        StatementForm, typer.Option("--output", "-o", help="For people or for programs.", show_default=False)
    ] = StatementForm.TABLE,
    server: ServerOption = None,
) -> None:
    """Show every change of what you own.

    With what you owned before, and then.
    ``-o csv`` is the document itself: its lines add up to the last millionth.
    """
    begin, end = instant(since), instant(until)
    with connected(server) as client:
        if output is StatementForm.CSV:
            for piece in client.billing.statement_csv(since=begin, until=end):
                sys.stdout.buffer.write(piece)
            sys.stdout.flush()
            return
        page = client.billing.statement(since=begin, until=end)
        lines = list(page.lines)
        while len(lines) < page.pager.totalEntries:
            number = len(lines) // page.pager.pageSize + 1
            further = client.billing.statement(since=begin, until=page.until, number=number).lines
            if not further:
                break
            lines += further
    whole = page.model_copy(update={"lines": lines})
    if output is StatementForm.JSON:
        show_one(whole, [], Form.JSON, name=str)
        return
    owned = Decimal(str(whole.opening))
    rows: list[tuple[PostingInfo, Decimal]] = []
    for line in lines:
        owned += Decimal(str(line.amount))
        rows.append((line, owned))
    typer.echo(f"owned before  {money(whole.opening, whole.currency)}")
    columns = [
        Column("AT", lambda row: _local(row[0].at), firm=True),
        Column("KIND", lambda row: row[0].kind),
        Column("FOR", lambda row: row[0].instanceId or row[0].memo or NOTHING),
        Column("AMOUNT", lambda row: money(row[0].amount), right=True, firm=True),
        Column("OWNED", lambda row: money(row[1]), right=True, firm=True),
    ]
    show_rows(rows, columns, Form.TABLE, name=str, empty="Nothing changed in that time.")
    typer.echo(f"owned at {_local(whole.until)}  {money(whole.closing, whole.currency)}")


def ledger(
    since: Since = None,
    until: Until = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only those, such as charge; may be said again.")
    ] = None,
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="The newest so many.")] = 50,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Show your ledger, the newest posting first."""
    from itertools import islice

    with connected(server) as client:
        found = client.billing.transactions(since=instant(since), until=instant(until), kinds=kind)
        rows = list(islice(found, most))
    columns = [
        Column("AT", lambda row: _local(row.at), firm=True),
        Column("KIND", lambda row: row.kind),
        Column(
            "LINES", lambda row: "; ".join(f"{money(x.amount)} {x.debit} to {x.credit}" for x in row.lines)
        ),
        Column("FOR", lambda row: row.instanceId or row.memo or NOTHING),
        Column("CHANGE", lambda row: money(row.amount), right=True),
    ]
    show_rows(rows, columns, output, name=lambda row: row.id, empty="The ledger has nothing of yours.")


def usage(
    since: Since = None,
    until: Until = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Show how long each instance ran, and what that cost."""
    with connected(server) as client:
        rows = list(client.billing.usage(since=instant(since), until=instant(until)))
    show_rows(rows, _USED, output, name=lambda row: row.instanceName, empty="Nothing ran in that time.")


def _cost(row: UsageRow) -> Decimal:
    return Decimal(str(row.cost)) + Decimal(str(row.accrued)) - Decimal(str(row.refunded))


_USED = [
    Column("NAME", lambda row: row.instanceName),
    Column("STATUS", lambda row: row.status),
    Column("MODE", lambda row: row.chargeMode),
    Column("RAN", lambda row: span(row.seconds), right=True),
    Column("COST", lambda row: money(_cost(row), row.currency), right=True, firm=True),
]


def top(
    server: ServerOption = None,
    seconds: Annotated[float, typer.Option("--every", min=0.5, metavar="SECONDS", help="How often.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
) -> None:
    """Watch what there is, and what it comes to."""
    from tidemill.cli.instances import name_of, price_of, status_of

    with connected(server) as client:

        def look() -> None:
            owned = client.billing.balance()
            rows = [
                (row, client.instances.usage(row.instanceMetadata.instanceId))
                for row in client.instances.list()
            ]
            rows.sort(key=lambda each: _cost(each[1]), reverse=True)
            lasts = "" if owned.hoursLeft is None else f", which lasts for {span(owned.hoursLeft * 3600)}"
            typer.echo(f"{money(_spendable(owned), owned.currency)} can be spent{lasts}")
            columns = [
                Column("NAME", lambda each: name_of(each[0])),
                Column("STATUS", lambda each: status_of(each[0])),
                Column("TYPE", lambda each: each[0].instanceSpecInfo.instanceTypeName),
                Column("PRICE", lambda each: price_of(each[0]), right=True),
                Column("RAN", lambda each: span(each[1].seconds), right=True),
                Column("COST", lambda each: money(_cost(each[1]), each[1].currency), right=True, firm=True),
            ]
            show_rows(rows, columns, Form.TABLE, name=str, empty="No instance is there.")

        watched(None if once else seconds, look)


cap = commands("Caps on what may be spent.")


@cap.command("list")
def list_caps(server: ServerOption = None, output: Output = Form.TABLE) -> None:
    """List the caps that hold for the account and its keys."""
    with connected(server) as client:
        rows = client.billing.caps()
    show_rows(rows, CAPS, output, name=lambda row: f"{row.of} {row.per}", empty="There is no cap.")


@cap.command("set")
def set_cap(
    per: Annotated[Per, typer.Argument(help="An hour, or a calendar month.", show_default=False)],
    limit: Annotated[str, typer.Argument(help="At most so much, such as 2.50.")],
    key: Annotated[
        str, typer.Option("--api-key-id", metavar="ID", help="Only what this API key launches.")
    ] = "",
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Cap what the account, or one of its API keys, may spend."""
    with connected(server) as client:
        rows = client.billing.cap(per.value, limit, api_key_id=key)
    show_rows(rows, CAPS, output, name=lambda row: f"{row.of} {row.per}", empty="There is no cap.")


@cap.command("lift")
def lift_cap(
    per: Annotated[Per, typer.Argument(help="An hour, or a calendar month.", show_default=False)],
    key: Annotated[str, typer.Option("--api-key-id", metavar="ID", help="The cap of this API key.")] = "",
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Lift a cap. An operator's cap stays."""
    with connected(server) as client:
        rows = client.billing.cap(per.value, None, api_key_id=key)
    show_rows(rows, CAPS, output, name=lambda row: f"{row.of} {row.per}", empty="There is no cap any more.")


CAPS = [
    Column("OF", lambda row: row.of),
    Column("KEY", lambda row: row.apiKeyId or NOTHING, firm=True),
    Column("PER", lambda row: row.per),
    Column("LIMIT", lambda row: money(row.limit), right=True, firm=True),
]


def _local(at: datetime) -> str:
    """By the reader's own clock."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
