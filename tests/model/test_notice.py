"""What is told inside an instance: one notice of a kind, since when it holds, on one line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from tests.stock import START

from tidemill.model.notice import Notice, with_notice

KINDS = st.sampled_from(["money", "term", "other"])
TOLD = st.lists(st.tuples(KINDS, st.none() | st.sampled_from(["one", "two"])), max_size=12)


@given(TOLD)
def test_of_each_kind_the_last_word_since_it_was_said_first(told: list[tuple[str, str | None]]) -> None:
    notices: tuple[Notice, ...] = ()
    expected: dict[str, tuple[str, datetime]] = {}
    for number, (kind, text) in enumerate(told):
        at = START + timedelta(seconds=number)
        notices = with_notice(notices, kind, text, at)
        if text is None:
            expected.pop(kind, None)
        elif expected.get(kind, ("",))[0] != text:
            expected[kind] = (text, at)
    assert {each.kind: (each.text, each.at) for each in notices} == expected
    assert len(notices) == len(expected)


@given(st.text())
def test_a_line_is_one_line(text: str) -> None:
    assert len(f"{Notice('money', START, text).line}.".splitlines()) == 1


def test_the_time_is_whole_seconds_of_utc() -> None:
    at = datetime(2026, 3, 1, 12, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert Notice("money", at, "a\nb").line == "2026-03-01T10:30:00Z money a b"
