"""A stream of events over a world that is told: it goes on where it was, whatever breaks it off."""

from __future__ import annotations

import json
from contextlib import closing
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.told import Told, answered
from tidemill.client import errors
from tidemill.client.errors import NoAnswer, NotConnected
from tidemill.client.happenings import Frame, Frames

OPENING = b": from now on\nretry: 2000\nid: 7\n\n"
LOST = NoAnswer("broke off", sent=True)


def frame(seq: int, name: str = "train") -> bytes:
    data = {
        "seq": seq, "at": "2026-01-01T00:00:00Z", "event": "launch", "from": "Starting", "to": "Running",
        "start": 1, "reason": "", "message": "ünïcode", "instanceId": "notebook-1", "instanceName": name,
    }  # fmt: skip
    return f"id: {seq}\nevent: instance\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def taken(told: Told, count: int, **asked: Any) -> list[int]:
    with closing(told.client().events(**asked)) as stream:
        return [each.seq for each in islice(stream, count)]


def lasts(told: Told) -> list[str | None]:
    return [request.headers.get("Last-Event-ID") for request in told.sent]


@given(cuts=st.lists(st.integers(0, 400), max_size=8), windows=st.booleans())
def test_frames_are_the_same_however_they_are_cut(cuts: list[int], windows: bool) -> None:
    whole = OPENING + frame(8) + b": still here\n\n" + frame(9)
    if windows:
        whole = whole.replace(b"\n", b"\r\n")
    at = sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})
    frames = Frames()
    found = [each for begin, end in pairwise(at) for each in frames.feed(whole[begin:end])]
    assert [each.id for each in found] == ["7", "8", "9"]
    assert found[0] == Frame("7")
    assert json.loads("\n".join(found[1].data))["message"] == "ünïcode"


def test_what_breaks_off_goes_on_where_it_was() -> None:
    told = Told(
        [
            [OPENING, frame(8), frame(9)[:30], LOST],  # in the middle of one
            NotConnected("no", sent=False),
            answered(503, {"message": "starting"}),
            [b": from 8\nid: 8\n\n", frame(9)],  # ended, as by a server that stops
            [frame(10)],
        ]
    )
    assert taken(told, 3) == [8, 9, 10]
    assert lasts(told) == [None, "8", "8", "8", "9"]


def test_who_lost_the_connection_before_the_first_event_misses_nothing() -> None:
    told = Told([[OPENING, LOST], [frame(8)]])
    assert taken(told, 1) == [8]
    assert lasts(told) == [None, "7"]


def test_it_begins_after_what_is_known_and_is_of_one_instance_where_that_is_asked() -> None:
    told = Told([[frame(8)]])
    assert taken(told, 1, after=0, instance_id="notebook-1") == [8]
    assert lasts(told) == ["0"]
    assert dict(told.sent[0].query) == {"instanceId": "notebook-1"}


def test_without_following_it_ends() -> None:
    told = Told([[OPENING, frame(8)]])
    assert taken(told, 5, follow=False) == [8]
    assert told.sent[0].query["follow"] == "false"
    with pytest.raises(NoAnswer):
        taken(Told([[OPENING, LOST]]), 5, follow=False)


def test_a_server_that_forgot_is_said_to_have_and_from_where_to_go_on() -> None:
    reset = b'retry: 2000\nid: 3\nevent: reset\ndata: {"message": "restored from a backup"}\n\n'
    with pytest.raises(errors.EventsLost, match="restored from a backup") as caught:
        taken(Told([[reset]]), 1, after=9)
    assert caught.value.after == 3


@pytest.mark.parametrize("data", ["garbage", "[]", '"x"', "{}", "[" * 100_000])
def test_a_server_that_forgot_and_cannot_say_so_well(data: str) -> None:
    with pytest.raises(errors.EventsLost, match="lost its place") as caught:
        taken(Told([[f"id: abc\nevent: reset\ndata: {data}\n\n".encode()]]), 1)
    assert caught.value.after == 0


def test_a_server_that_stays_away_or_refuses_ends_it() -> None:
    told = Told([[OPENING, frame(8), LOST], *[NotConnected("no", sent=False)] * 200])
    stream = told.client(attempts=200, patience=60.0).events()
    assert next(stream).seq == 8
    with pytest.raises(NotConnected):
        next(stream)
    assert 30 < told.now <= 70
    with pytest.raises(errors.NotLoggedIn):
        taken(Told([[OPENING, LOST], answered(401, {"message": "expired"})]), 1)


def test_a_server_that_ends_each_stream_at_once_is_not_asked_without_a_pause() -> None:
    told = Told([[OPENING]] * 20 + [[frame(8)]])
    assert taken(told, 1) == [8]
    assert max(told.pauses) > 2
