"""Amounts go in and out exactly, or not at all."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.model.money import MICRO, MOST, to_micro, to_units


@given(st.integers(0, MOST))
def test_micro_units_survive_the_way_out_and_in(micro: int) -> None:
    assert to_micro(to_units(micro)) == micro


def test_known_amounts() -> None:
    assert to_micro("0.000123") == 123
    assert to_micro(Decimal("1.5")) == 1_500_000
    assert to_units(123) == Decimal("0.000123")
    assert str(to_units(12 * MICRO)) in {"12", "1.2E+1"}


@pytest.mark.parametrize("bad", ["0.0000001", "-1", "NaN", "Infinity", "1e30", "dear"])
def test_what_is_no_amount_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"amount|between|millionth"):
        to_micro(bad)
