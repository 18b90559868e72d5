"""How routes are handed what they work with and how they answer; nothing here knows a noun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar, cast

from fastapi import Request, Response

from tidemill.actions.context import Context
from tidemill.actions.throttle import Throttle
from tidemill.model.errors import Invalid
from tidemill.wire.answers import Answer
from tidemill.wire.body import parse
from tidemill.wire.fields import LARGEST
from tidemill.wire.fields import Request as Body

B = TypeVar("B", bound=Body)

JSON = "application/json"
IDEMPOTENCY_KEY_MOST = 255


def context_of(request: Request) -> Context:
    return cast(Context, request.app.state.context)


def currency_of(request: Request) -> str:
    """The ISO 4217 code of what everything is priced in."""
    return str(context_of(request).settings.currency)


def throttle_of(request: Request) -> Throttle:
    return cast(Throttle, request.app.state.throttle)


async def body_of(request: Request, model: type[B]) -> B:
    """The request's body, whatever its content type says. Raises Invalid."""
    return parse(model, await request.body())


def answer(sent: Answer) -> Response:
    return Response(sent.model_dump_json(by_alias=True), media_type=JSON)


def failure(status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(content, ensure_ascii=False), status, media_type=JSON, headers=dict(headers or {})
    )


def query_flag(request: Request, name: str, *, default: bool = False) -> bool:
    """A query parameter that is ``true`` or ``false``. Raises Invalid."""
    value = request.query_params.get(name)
    if value not in {"true", "false", None}:
        raise Invalid(f'query parameter "{name}" must be true or false', code="invalidQuery")
    return default if value is None else value == "true"


def query_count(request: Request, name: str, default: int | None, most: int = LARGEST) -> int | None:
    """A query parameter that is a whole number from 0 to ``most``. Raises Invalid."""
    value = request.query_params.get(name)
    return default if value is None else count_of(value, f'query parameter "{name}"', most)


def count_of(value: str, what: str, most: int = LARGEST) -> int:
    """A whole number from 0 to ``most``. Raises Invalid, which says ``what`` it was."""
    if not (value.isascii() and value.isdecimal() and len(value) <= 20 and int(value) <= most):
        raise Invalid(f"{what} must be a whole number from 0 to {most}", code="invalidQuery")
    return int(value)


def idempotency_key(request: Request) -> str | None:
    """The header Idempotency-Key. Raises Invalid for two of them, and for one that can be no key."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1:
        raise Invalid("header Idempotency-Key must be sent once", code="invalidIdempotencyKey")
    key = keys[0]
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_MOST or not (key.isascii() and key.isprintable()):
        raise Invalid(
            f"header Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_MOST} printable ASCII characters",
            code="invalidIdempotencyKey",
        )
    return key
