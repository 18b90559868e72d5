"""``tidemill price``: what there is for rent, and how its price follows the tide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli import offers, tide
from tidemill.cli.connection import connected
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, Watch, show_one, show_rows, watched
from tidemill.cli.telling import money

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.client.orders import Offer


def price(
    type: Annotated[
        str | None, typer.Argument(help="One type, by name or id; without it, all.", show_default=False)
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only in this region, by name or id.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--no-spot", help="Only spot, or none of it.", show_default=False)
    ] = None,
    server: ServerOption = None,
    output: Output = Form.TABLE,
    watch: Watch = None,
) -> None:
    """Show what can be rented, what it costs, and what is in stock.

    Of one type, also how its price follows the tide in the next 48 hours, by the clock of this machine.
    """
    with connected(server) as client:

        def look() -> None:
            if type is None:
                _show_all(client, region, spot, output)
            else:
                _show_type(client, type, region, bool(spot), output)

        watched(watch, look)


def _show_all(client: Client, region: str | None, spot: bool | None, output: Form) -> None:
    from tidemill.client.orders import offers as offered

    stock = client.catalogue.stock()
    there = offers.within(offered(stock), region=region, spot=spot)
    if output in {Form.TABLE, Form.NAME}:
        columns = offers.columns(there, stock.currency)
        show_rows(
            there, columns, output, name=lambda row: row.type.instanceTypeName, empty="Nothing is for rent."
        )
    else:
        rows = [offers.row(each, stock.currency) for each in there]
        show_rows(rows, [], output, name=str, empty="")


def _show_type(client: Client, type: str, region: str | None, spot: bool, output: Form) -> None:
    from tidemill.client.orders import choose
    from tidemill.clock import SystemClock

    offer = choose(client.catalogue.stock(), type=type, region=region, spot=spot)
    found = client.billing.price(offer.type.instanceTypeId, offer.region.regionId, spot=spot)
    now = SystemClock().now()
    disk = f"{money(found.dataDiskPrice, found.currency)}/hour for each GB" if found.dataDiskPrice else ""
    facts = [
        ("type", _named(offer)),
        ("region", offer.region.regionName),
        ("stock", offer.type.stockStatus),
        *(
            (
                offers.SHORT.get(mode, mode),
                f"{offers.price_of(offer, mode)} {found.currency}/{offers.UNITS.get(mode, mode)}",
            )
            for mode in offer.modes
        ),
        ("disk", disk),
        ("next", tide.change_told(found.segments, now, found.currency)),
    ]
    show_one(found, facts, output, name=lambda _: offer.type.instanceTypeName)
    if output is Form.TABLE and found.segments:
        typer.echo()
        columns = tide.columns(found.segments, now, found.currency)
        show_rows(found.segments, columns, output, name=str, empty="")


def _named(offer: Offer) -> str:
    about = offer.type
    sizes = f"{about.cpu:g} cores, {about.memoryGB:g} GB{', spot' if offer.is_spot else ''}"
    gpus = "" if not about.gpuNum else f"{offers.gpus(offer)}, "
    return f"{about.instanceTypeName} ({gpus}{sizes})"
