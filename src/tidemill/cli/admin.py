"""``tidemill admin``: what the operator does over the API, from anywhere."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.lazy import commands
from tidemill.cli.money import CAPS, Per, Since, Until, instant
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_one, show_rows
from tidemill.cli.table import Column
from tidemill.cli.telling import NOTHING, money

if TYPE_CHECKING:
    from tidemill.wire.admin import PostedAnswer

app = commands("What the operator does over the API.")

User = Annotated[str, typer.Argument(metavar="USER", help="The user's name.")]
Amount = Annotated[str, typer.Argument(metavar="AMOUNT", help="In units of the currency, such as 12.50.")]
Id = Annotated[
    str | None,
    typer.Option(
        "--id", help="What tells it from all others: the same again does nothing.", show_default=False
    ),
]
Memo = Annotated[str, typer.Option("--memo", help="A note for the user's statement.")]


@app.command()
def users(
    name: Annotated[str | None, typer.Argument(help="A part of the name.", show_default=False)] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """List the users with what they own."""
    with connected(server) as client:
        rows = list(client.admin.users(username=name))
    columns = [
        Column("NAME", lambda row: row.username),
        Column("ID", lambda row: row.userId, firm=True),
        Column("BALANCE", lambda row: money(row.balance), right=True),
        Column("VOUCHERS", lambda row: money(row.availableVoucherAmount), right=True),
        Column("CREDIT", lambda row: money(row.availableCreditAmount), right=True),
        Column("HELD", lambda row: money(row.held), right=True),
        Column("OPERATOR", lambda row: "yes" if row.isAdmin else ""),
        Column("MADE", lambda row: f"{row.createdAt:%Y-%m-%d}"),
    ]
    show_rows(rows, columns, output, name=lambda row: row.username, empty="There is no such user.")


@app.command()
def credit(
    user: User,
    amount: Amount,
    id: Id = None,
    memo: Memo = "",
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Write down that a user paid in, or was paid back."""
    with connected(server) as client:
        _show(client.admin.credit(user, amount, id=id, memo=memo), output)


@app.command()
def voucher(
    user: User,
    amount: Amount,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends, such as 2027-01-01.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="What it is called on the statement.")] = "",
    id: Id = None,
    memo: Memo = "",
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Give a user a voucher."""
    ends = instant(expires)
    with connected(server) as client:
        _show(client.admin.voucher(user, amount, expires_at=ends, name=name, id=id, memo=memo), output)


@app.command("monthly-credit")
def monthly_credit(user: User, amount: Amount, server: ServerOption = None) -> None:
    """Give a user credit each month."""
    with connected(server) as client:
        made = client.admin.monthly_credit(user, amount)
    typer.echo(f"{made.username} is given {money(made.monthlyCredit, made.currency)} each month", err=True)


@app.command()
def refund(
    posting: Annotated[str, typer.Argument(help="Id of the charge, as `admin transactions` shows it.")],
    amount: Annotated[
        str | None, typer.Argument(help="A part of it; left out: all of it.", show_default=False)
    ] = None,
    id: Annotated[str, typer.Option("--id", help="What tells it from other refunds of it.")] = "refund",
    memo: Memo = "",
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Give back what was charged, or a part of it."""
    with connected(server) as client:
        _show(client.admin.refund(posting, amount, id=id, memo=memo), output)


@app.command()
def transactions(
    user: User,
    since: Since = None,
    until: Until = None,
    most: Annotated[int, typer.Option("--most", "-n", min=1, help="The newest so many.")] = 50,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Show a user's ledger, the newest posting first."""
    from itertools import islice

    with connected(server) as client:
        found = client.admin.transactions(user, since=instant(since), until=instant(until))
        rows = list(islice(found, most))
    columns = [
        Column("AT", lambda row: _utc(row.at), firm=True),
        Column("ID", lambda row: row.id, firm=True),
        Column("KIND", lambda row: row.kind),
        Column("CHANGE", lambda row: money(row.amount), right=True, firm=True),
        Column("MEMO", lambda row: row.memo or NOTHING),
    ]
    show_rows(rows, columns, output, name=lambda row: row.id, empty="The ledger has nothing of theirs.")


@app.command()
def cap(
    user: User,
    per: Annotated[Per, typer.Argument(help="An hour, or a calendar month.", show_default=False)],
    limit: Annotated[
        str | None, typer.Argument(help="At most so much; left out: no cap.", show_default=False)
    ] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Cap what a user may spend, or lift that cap."""
    with connected(server) as client:
        rows = client.admin.cap(user, per.value, limit)
    show_rows(rows, CAPS, output, name=lambda row: f"{row.of} {row.per}", empty="There is no cap.")


@app.command()
def prices(
    mode: Annotated[
        str | None, typer.Option(help="Only this charge mode, or dataDisk.", show_default=False)
    ] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Show all prices there ever were, the newest first."""
    from tidemill.client.orders import offers

    with connected(server) as client:
        rows = list(client.admin.prices(charge_mode=mode))
        known = offers(client.catalogue.stock())
    types = {each.type.instanceTypeId: each.type.instanceTypeName for each in known}
    regions = {each.region.regionId: each.region.regionName for each in known}
    columns = [
        Column("SINCE", lambda row: _utc(row.validFrom), firm=True),
        Column("TYPE", lambda row: str(types.get(row.instanceTypeId, row.instanceTypeId) or NOTHING)),
        Column("REGION", lambda row: str(regions.get(row.region, row.region))),
        Column("MODE", lambda row: row.chargeMode + (" spot" if row.isSpotInstance else "")),
        Column("PRICE", lambda row: money(row.price), right=True, firm=True),
        Column("BANDS", lambda row: ", ".join(f"{x.name} {money(x.price)}" for x in row.bands) or NOTHING),
        Column("BY", lambda row: row.source),
    ]
    show_rows(rows, columns, output, name=lambda row: money(row.price), empty="There is no price.")


@app.command("set-price")
def set_price(
    mode: Annotated[str, typer.Argument(help="perHour, tidePerHour, perDay, perWeek, perMonth or dataDisk.")],
    amount: Amount,
    type: Annotated[
        str | None, typer.Option(help="The type, by name or id; none for dataDisk.", show_default=False)
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="By name or id; needed where there are several.", show_default=False)
    ] = None,
    spot: Annotated[bool, typer.Option(help="The price as spot.")] = False,
    bands: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with the bands of tidePerHour, as the API has them.", show_default=False
        ),
    ] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Set a price for launches from now on."""
    from tidemill.client.orders import choose, pick

    read = [] if bands is None else _bands(bands)
    with connected(server) as client:
        if type is not None:
            offer = choose(client.catalogue.stock(), type=type, region=region, spot=spot)
            where, kind = offer.region.regionId, offer.type.instanceTypeId
        else:
            regions = client.catalogue.regions()
            if region is None and len(regions) > 1:
                raise Failure("Say which region, with --region", exit=Exit.USAGE, code="usage")
            known = [(each.regionId, each.regionName, each) for each in regions]
            meant = regions[0] if region is None and regions else pick("region", region or "", known)
            where, kind = meant.regionId, ""
        row = client.admin.set_price(where, mode, amount, instance_type_id=kind, spot=spot, bands=read)
    facts = [("mode", row.chargeMode), ("price", money(row.price)), ("since", _utc(row.validFrom))]
    show_one(row, facts, output, name=lambda each: money(each.price))


def _bands(file: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(file.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Failure(f"{file} is no JSON: {error}", exit=Exit.USAGE, code="usage") from None
    if not isinstance(read, list) or not all(isinstance(each, dict) for each in cast(list[Any], read)):
        raise Failure(f"{file} is no list of bands", exit=Exit.USAGE, code="usage")
    return cast(list[dict[str, Any]], read)


def _show(posted: PostedAnswer, output: Form) -> None:
    made = posted.transaction
    facts = [
        ("amount", money(Decimal(str(made.amount)), posted.currency)),
        ("kind", made.kind),
        ("at", _utc(made.at)),
        ("id", made.id),
    ]
    show_one(posted, facts, output, name=lambda each: each.transaction.id)


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z"
