"""What something would cost, before it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band


@dataclass(frozen=True, slots=True)
class Quote:
    """The terms that an instance would be started with. All amounts in micro-units.

    Attributes:
        price: per period of the charge mode; outside all ``bands`` where it has some.
        price_now: per hour at this instant; None for terms bought in advance.
        term_total: the whole term; None for the hourly modes.
        disk: its data disk per hour, also while stopped.
        hold: what starting it sets aside. available: what there is to set aside from.
    """

    charge_mode: ChargeMode
    duration: int
    price: int
    price_now: int | None
    bands: tuple[Band, ...]
    term_total: int | None
    disk: int
    hold: int
    available: int
