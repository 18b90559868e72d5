"""What ``tidemill launch`` asks a person who did not say it: type, image, region, charge mode."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer

from tidemill.cli import offers, table
from tidemill.cli.asking import ask, whole
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.order import Body, Catalogue, Said
from tidemill.cli.table import Column

if TYPE_CHECKING:
    from tidemill.client.orders import Offer
    from tidemill.wire.catalogue import ImageRow

T = TypeVar("T")


def answered(said: Said, file: Body, catalogue: Catalogue) -> Said:
    """``said`` with what was missing. Raises Failure, Unknown."""
    from tidemill.client.orders import offers as offered

    if said.type is None and "instanceTypeId" not in file:
        region = said.region or (str(file["region"]) if file.get("region") else None)
        spot = file.get("isSpotInstance") if said.spot is None else said.spot
        there = offers.within(
            offered(catalogue.stock), region=region, spot=None if spot is None else bool(spot)
        )
        if not there:
            raise Failure("Nothing is for rent here", exit=Exit.NOT_FOUND, code="noOffers")
        said = _with_offer(said, file, there, catalogue.stock.currency)
    if said.image is None and "imageId" not in file:
        said = replace(said, image=_image(catalogue.images).imageId)
    return said


def _with_offer(said: Said, file: Body, there: Sequence[Offer], currency: str) -> Said:
    """The type by its number in the table, or by name; then a region, a mode, where there is a choice."""
    _show(there, offers.columns(there, currency))
    first = next((number for number, offer in enumerate(there, 1) if offer.in_stock), 1)
    chosen = ask("Type, by number or name", _one_of(there, "type", _type_name), str(first))
    if isinstance(chosen, str):  # a name: it may be there more than once
        same = [offer for offer in there if chosen in {_type_name(offer), offer.type.instanceTypeId}]
        offer = same[0]
        if len(same) > 1:
            _show(same, offers.columns(same, currency))
            offer = ask("Which one, by number", _number_of(same), "1")
    else:
        offer = chosen
    said = replace(
        said, type=offer.type.instanceTypeId, region=offer.region.regionId, spot=offer.is_spot or said.spot
    )
    billing = file.get("billing")
    if said.mode is None and not (isinstance(billing, dict) and "chargeMode" in cast(Body, billing)):
        said = _with_mode(said, offer, currency)
    return said


def _with_mode(said: Said, offer: Offer, currency: str) -> Said:
    from tidemill.client.orders import default_mode

    if len(offer.modes) > 1:
        for mode in offer.modes:
            amount = f"{offers.price_of(offer, mode)} {currency} per {offers.UNITS.get(mode, mode)}"
            typer.echo(f"  {offers.SHORT.get(mode, mode):<6} {amount}", err=True)
        default = default_mode(offer)
        short = {offers.SHORT.get(mode, mode): mode for mode in offer.modes}
        said = replace(said, mode=ask("Charged by", _word_of(short), offers.SHORT.get(default, default)))
    mode = said.mode or default_mode(offer)
    unit = offers.UNITS.get(mode, "hour")
    if unit != "hour" and said.duration is None:
        said = replace(said, duration=ask(f"For how many {unit}s", whole, "1"))
    return said


def _image(images: Sequence[ImageRow]) -> ImageRow:
    if not images:
        raise Failure("There is no image to launch", exit=Exit.NOT_FOUND, code="noImages")
    if len(images) == 1:
        return images[0]
    _show(
        images,
        [Column("IMAGE", lambda row: row.imageName, firm=True), Column("", lambda row: row.description)],
    )
    found = ask("Image, by number or name", _one_of(images, "image", lambda row: row.imageName), "1")
    return next(row for row in images if row.imageName == found) if isinstance(found, str) else found


def _type_name(offer: Offer) -> str:
    return offer.type.instanceTypeName


def _show(rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """A table with a number before each row."""
    numbered = [
        Column("", _number, right=True),
        *(replace(each, cell=_beside(each.cell)) for each in columns),
    ]
    width = os.get_terminal_size(sys.stderr.fileno()).columns or None
    coloured = table.is_coloured(sys.stderr, os.environ)
    for line in table.lines(list(enumerate(rows, 1)), numbered, width=width, coloured=coloured):
        typer.echo(line, err=True)


def _number(row: tuple[int, Any]) -> str:
    return str(row[0])


def _beside(cell: Callable[[Any], str]) -> Callable[[tuple[int, Any]], str]:
    return lambda row: cell(row[1])


def _number_of(rows: Sequence[T]) -> Callable[[str], T]:
    def meant(said: str) -> T:
        if not said.isdecimal() or not 1 <= int(said) <= len(rows):
            raise Failure(f"Say a number from 1 to {len(rows)}", code="usage")
        return rows[int(said) - 1]

    return meant


def _one_of(rows: Sequence[T], what: str, name: Callable[[T], str]) -> Callable[[str], T | str]:
    """A row by its number, or a whole name by a part of it that only one has."""

    def meant(said: str) -> T | str:
        from tidemill.client.errors import Unknown
        from tidemill.client.orders import pick

        names = dict.fromkeys(name(row) for row in rows)
        if said.isdecimal() and said not in names:
            return _number_of(rows)(said)
        try:
            return pick(what, said, [(each, each, each) for each in names])
        except Unknown as error:
            raise Failure(str(error), code="usage") from None

    return meant


def _word_of(known: dict[str, str]) -> Callable[[str], str]:
    def meant(said: str) -> str:
        if said not in known:
            raise Failure(f"Say one of {', '.join(known)}", code="usage")
        return known[said]

    return meant
