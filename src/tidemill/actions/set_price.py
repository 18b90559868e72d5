"""The operator sets a price while the server runs."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.model.errors import Invalid, NotFound
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band
from tidemill.store import offers, tariffs
from tidemill.store.tariffs import Price


async def set_price(
    context: Context,
    *,
    type_id: str,
    region_id: str,
    mode: str,
    is_spot: bool,
    amount: int,
    bands: Sequence[Band],
) -> Price:
    """Have a price hold for all that is launched from now on; what runs keeps the one it came with.

    Micro-units per hour, day, week or month by ``mode``; for ``tariffs.DISK``, which has no type, per GB
    and hour. The price that holds already adds nothing to the history. Raises NotFound, Invalid (not
    offered).
    """
    now = context.clock.now()

    def work(connection: Connection) -> Price:
        region = offers.offered_region(connection, region_id)
        if region is None:
            raise NotFound("region not found", code="regionNotFound")
        if mode != tariffs.DISK:
            _check_offered(connection, type_id, region_id, ChargeMode(mode), is_spot)
        price = Price(
            0, type_id, region_id, mode, is_spot, amount, tuple(bands), region.zone, now, tariffs.ADMIN
        )
        before = tariffs.current(connection, type_id, region_id, mode, is_spot=is_spot)
        if before is not None and before.tariff == price.tariff:
            return before
        tariffs.add(connection, price)
        return price

    return await context.database.write(work)


def _check_offered(
    connection: Connection, type_id: str, region_id: str, mode: ChargeMode, is_spot: bool
) -> None:
    kind = offers.offered_type(connection, type_id)
    if kind is None:
        raise NotFound("instance type not found", code="instanceTypeNotFound")
    if kind.regions and region_id not in kind.regions:
        raise NotFound("region not found", code="regionNotFound")
    if mode not in kind.prices:
        offered = ", ".join(each for each in ChargeMode if each in kind.prices)
        raise Invalid(
            f'instance type "{kind.name}" does not offer the charge mode "{mode}"; it offers: {offered}; '
            "tidemill.toml says what it offers",
            code="chargeModeNotOffered",
        )
    if is_spot and not kind.spot:
        raise Invalid(
            f'instance type "{kind.name}" is not offered as spot; it offers: on demand', code="spotNotOffered"
        )
