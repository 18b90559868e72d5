"""Bytes that are no JSON, or JSON that two programs could read in two ways."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.model.errors import Invalid
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.body import decode, parse
from tidemill.wire.fields import Request, Text


class Named(Request):
    name: Annotated[str, Text()]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "line 1 column 2"),
        (b"hello", "line 1 column 1"),
        (b'{"a": 1} x', "line 1 column 10"),
        (b"name=x", "line 1 column 1"),
        (b'{"a":\n 1,}', "line 2"),
        (b'{"a": NaN}', "NaN is not a number in JSON"),
        (b'{"a": -Infinity}', "-Infinity is not a number in JSON"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udFFF": 1}', "surrogate"),
        (b'{"a": "\x00"}', "line 1 column 8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "too many digits"),
        (b'{"name": "a", "name": "b"}', 'field "name" is set twice'),
        (b'{"x": [{"y": 1, "y": 1}]}', 'field "y" is set twice'),
        (b'\xef\xbb\xbf{"a": 1}', "line 1 column 1"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_is_no_json(body: bytes, said: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse(Named, body)
    assert said in raised.value.message
    assert raised.value.code == "invalidJson"


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse(Named, b'{"name": "\\ud83e\\udd99"}').name == "🦙"


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b'{"more": 1}'])
def test_an_empty_body_is_an_empty_object(body: bytes) -> None:
    parse(EmptyRequest, body)
    with pytest.raises(Invalid, match=r'^field "name" is not set$'):
        parse(Named, body)


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"x"', b"true"])
def test_what_is_no_object(body: bytes) -> None:
    for model in (EmptyRequest, Named):
        with pytest.raises(Invalid):
            parse(model, body)


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(Invalid):
        decode(body)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_json_writes_is_read(value: object) -> None:
    assert decode(json.dumps(value).encode("utf-8")) == value
    assert decode(json.dumps(value, ensure_ascii=False).encode("utf-8")) == value
