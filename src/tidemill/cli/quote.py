"""What a launch would cost, told before it is asked for."""

from __future__ import annotations

from datetime import datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from tidemill.cli import tide
from tidemill.cli.offers import PER, UNITS
from tidemill.cli.order import Body, Catalogue
from tidemill.cli.telling import money, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidemill.wire.billing import SegmentInfo
    from tidemill.wire.quote import QuoteInfo

TIDE = "tidePerHour"


def facts(
    quote: QuoteInfo,
    *,
    what: str,
    segments: Sequence[SegmentInfo],
    now: datetime,
    zone: tzinfo | None = None,
) -> list[tuple[str, str]]:
    """A title and its text each. ``what``: what would be launched."""
    currency, per = quote.currency, PER.get(quote.chargeMode, "")
    left = Decimal(str(quote.available)) - Decimal(str(quote.hold))
    found = [("launch", what)]
    if quote.priceNow is not None:
        band = next((each.band for each in segments if each.start <= now < each.end), "")
        found.append(("now", f"{money(quote.priceNow, currency)}/h{f' ({band})' if band else ''}"))
    if quote.termTotal is not None:
        unit = UNITS.get(quote.chargeMode, "")
        length = f"{quote.duration} {unit}{'s' if quote.duration > 1 else ''}"
        found.append(("price", f"{money(quote.price, currency)}{per}, {length}"))
        found.append(("in all", f"{money(quote.termTotal, currency)}, paid at the start"))
    if quote.chargeMode == TIDE:
        found.append(("next", tide.change_told(segments, now, currency, zone)))
    if quote.diskPerHour:
        found.append(("disk", f"{money(quote.diskPerHour, currency)}/h, also while it is stopped"))
    held = money(quote.hold, currency)
    if quote.hold > quote.available:
        found.append(("held", held))
    else:
        found.append(("held", f"{held} of {money(quote.available, currency)}; {money(left, currency)} stay"))
    return found


def what_of(body: Body, catalogue: Catalogue) -> str:
    """``quiet-heron-42: small (0.5 cores, 0.25 GB) with Debian 12 in default, spot``.

    Ids, where the service does not tell the names.
    """
    from tidemill.client.errors import ClientError
    from tidemill.client.orders import offers

    kind, image, region = (str(body.get(field)) for field in ("instanceTypeId", "imageId", "region"))
    is_spot = bool(body.get("isSpotInstance"))
    try:
        found = next(
            (
                offer
                for offer in offers(catalogue.stock)
                if (offer.type.instanceTypeId, offer.region.regionId) == (kind, region)
            ),
            None,
        )
        image = next((row.imageName for row in catalogue.images if row.imageId == image), image)
    except ClientError:
        found = None
    if found is not None:
        about = found.type
        sizes = [f"{number(about.cpu)} cores", f"{number(about.memoryGB)} GB"]
        if about.gpuNum:
            sizes.insert(0, f"{about.gpuNum}x {found.gpu_name}")
        kind, region = f"{about.instanceTypeName} ({', '.join(sizes)})", found.region.regionName
    return f"{body.get('name')}: {kind} with {image} in {region}{', spot' if is_spot else ''}"


def follows_tide(body: Body) -> bool:
    billing: Any = body.get("billing")
    return isinstance(billing, dict) and cast(Body, billing).get("chargeMode") == TIDE
