"""What is for rent and how its price follows the tide, as tables held against golden files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tidemill.cli import offers, quote, table, tide
from tidemill.client.orders import offers as offered
from tidemill.wire.billing import SegmentInfo
from tidemill.wire.catalogue import StockAnswer
from tidemill.wire.quote import QuoteInfo

GOLDEN = Path(__file__).with_name("golden")
NOW = datetime(2026, 11, 25, 17, 40, tzinfo=UTC)
BANDS = [{"name": "night", "days": ["mon"], "from": "22:00", "to": "06:00", "price": 6.4}]


def like_golden(name: str, lines: list[str]) -> None:
    assert "\n".join(lines) + "\n" == (GOLDEN / name).read_text("utf-8")


def kind(name: str, *, gpus: int = 0, stock: str = "InStock", **prices: Any) -> dict[str, Any]:
    """A type with prices by charge mode, a tide with a band."""
    return {
        "instanceTypeId": f"id-{name}",
        "instanceTypeName": name,
        "gpuNum": gpus,
        "cpu": 16 * gpus or 0.5,
        "memoryGB": 128 * gpus or 0.25,
        "stockStatus": stock,
        "price": [
            {"chargeMode": mode, "price": price} | ({"bands": BANDS} if mode == "tidePerHour" else {})
            for mode, price in prices.items()
        ],
    }


def family(
    gpu: str, types: list[dict[str, Any]], *, region: str = "north", spot: bool = False
) -> dict[str, Any]:
    place = {"regionId": f"id-{region}", "regionName": region, "sshAddress": f"{region}.example.org"}
    return {
        "gpuName": gpu,
        "isSpotInstance": spot,
        "regionInfos": [{**place, "dataDiskPrice": 0.0001, "instanceTypeInfos": types}],
    }


STOCK = StockAnswer.model_validate(
    {
        "currency": "EUR",
        "instanceInfos": [
            family("", [kind("small", perHour=1.5, perWeek=100)]),
            family("H200-SXM-141GB", [kind("h200", gpus=8, stock="OutOfStock", perHour=20, tidePerHour=16)]),
            family("H200-SXM-141GB", [kind("h200", gpus=8, perHour=19.125)], region="south"),
            family("H200-SXM-141GB", [kind("h200", gpus=8, tidePerHour=8)], spot=True),
        ],
    }
)
SEGMENTS = [
    SegmentInfo(start=NOW - timedelta(seconds=1), end=NOW.replace(hour=22, minute=0), band="", price=16),
    SegmentInfo(
        start=NOW.replace(hour=22, minute=0),
        end=NOW.replace(day=26, hour=6, minute=0),
        band="night",
        price=6.4,
    ),
    SegmentInfo(start=NOW.replace(day=26, hour=6, minute=0), end=NOW.replace(day=27), band="", price=16),
]


def test_what_is_for_rent() -> None:
    there = offered(STOCK)
    like_golden("offers.txt", table.lines(there, offers.columns(there, "EUR")))
    plain = offers.within(there, region="north", spot=False)
    like_golden("offers-north.txt", table.lines(plain, offers.columns(plain, "EUR")))


def test_the_tide_by_the_clock_of_whoever_looks() -> None:
    like_golden("tide.txt", table.lines(SEGMENTS, tide.columns(SEGMENTS, NOW, "EUR", UTC)))


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (NOW, "6.40 EUR/h (night) from Wed 25 Nov 22:00, in 4h"),
        (NOW.replace(hour=22, minute=0), "16.00 EUR/h from Thu 26 Nov 06:00, in 8h"),
        (NOW.replace(day=26), "none within 24h"),
    ],
)
def test_the_next_change(at: datetime, told: str) -> None:
    assert tide.change_told(SEGMENTS, at, "EUR", UTC) == told


def test_two_bands_at_one_price_are_no_change() -> None:
    same = [SEGMENTS[0], SEGMENTS[1].model_copy(update={"price": 16}), SEGMENTS[2]]
    assert tide.next_change(same, NOW) is None
    assert tide.change_told([], NOW, "EUR") == ""


def quoted(**fields: Any) -> QuoteInfo:
    return QuoteInfo.model_validate(
        {
            "currency": "EUR", "chargeMode": "tidePerHour", "duration": 1, "price": 16, "priceNow": 16,
            "bands": BANDS, "termTotal": None, "diskPerHour": 0.001, "hold": 16.001, "available": 100,
        }
        | fields
    )  # fmt: skip


def test_a_quote_says_what_it_costs_now_next_and_what_is_held() -> None:
    told = quote.facts(quoted(), what="a", segments=SEGMENTS, now=NOW, zone=UTC)
    assert told == [
        ("launch", "a"),
        ("now", "16.00 EUR/h"),
        ("next", "6.40 EUR/h (night) from Wed 25 Nov 22:00, in 4h"),
        ("disk", "0.001 EUR/h, also while it is stopped"),
        ("held", "16.001 EUR of 100.00 EUR; 83.999 EUR stay"),
    ]
    term = quoted(
        chargeMode="perWeek", duration=2, price=100, priceNow=None, termTotal=200, hold=200, diskPerHour=0
    )
    assert quote.facts(term, what="a", segments=[], now=NOW) == [
        ("launch", "a"),
        ("price", "100.00 EUR/week, 2 weeks"),
        ("in all", "200.00 EUR, paid at the start"),
        ("held", "200.00 EUR"),
    ]
