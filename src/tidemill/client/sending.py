"""One call as steps: what is sent, and what is tried again.

Tried again, with pauses that grow: what the server cannot have seen; and, where a second time does no harm
(``repeatable``), also what it may have carried out without our hearing of it. Never what it refused, but for
429, and for the statuses that say "not now" on a repeatable call.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tidemill.client.effects import Now, Open, Outgoing, Reply, Send, Sleep, Steps, Tap
from tidemill.client.errors import (
    ClientError,
    NoAnswer,
    NotUnderstood,
    Refused,
    TooManyRequests,
    Unavailable,
    refused,
)
from tidemill.client.service import Service


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long to try: ``attempts`` in all, ``patience`` seconds over all of them.

    Pauses double from ``first`` to ``longest`` seconds and are shortened by up to a half, at random, so
    that many clients do not come back at the same instant.
    """

    attempts: int = 6
    first: float = 0.2
    longest: float = 5.0
    patience: float = 60.0

    def pause(self, attempt: int) -> float:
        """Seconds after the ``attempt``-th try, which is 1 for the first."""
        return min(self.longest, self.first * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311


@dataclass(frozen=True, slots=True)
class Manner:
    """How calls are made, and of whose service."""

    service: Service
    retries: Retries


class Model(Protocol):
    """What a request is, where it is none of plain JSON: one of pydantic's models."""

    def model_dump_json(self, *, by_alias: bool, exclude_unset: bool) -> str: ...


def exchange(retries: Retries, sent: Outgoing, *, repeatable: bool) -> Steps[Reply]:
    """The whole answer, whatever it holds. Raises Refused, NoAnswer, NotUnderstood (a redirect)."""

    def once() -> Steps[Reply]:
        reply: Reply = yield Send(sent)
        return reply

    return (yield from _tried(retries, once, repeatable=repeatable))


def opened(retries: Retries, sent: Outgoing) -> Steps[Tap]:
    """An answer to read bit by bit. Raises Refused, NoAnswer, NotUnderstood (a redirect)."""
    tap: Any = None

    def once() -> Steps[Reply]:
        nonlocal tap
        tap = yield Open(sent)
        return tap.refusal or Reply(tap.status, {}, b"")

    yield from _tried(retries, once, repeatable=True)
    return tap


def _tried(retries: Retries, once: Callable[[], Steps[Reply]], *, repeatable: bool) -> Steps[Reply]:
    began: float = yield Now()
    attempt = 0
    while True:
        attempt += 1
        try:
            reply: Reply = yield from once()
            if reply.status < 300:
                return reply
            if reply.status < 400:
                raise _sent_elsewhere(reply)
            raise _refusal(reply)
        except (NoAnswer, Refused) as error:
            pause = _before_another(retries, error, attempt, repeatable=repeatable)
            now: float = yield Now()
            if pause is None or now - began + pause > retries.patience:
                raise
        yield Sleep(pause)


def _before_another(retries: Retries, error: ClientError, attempt: int, *, repeatable: bool) -> float | None:
    """Seconds to wait before another try; None: there is none."""
    match error:
        case TooManyRequests():
            again = True
        case Unavailable():
            again = repeatable
        case NoAnswer():
            again = repeatable or not error.sent
        case _:
            again = False
    if not again or attempt >= retries.attempts:
        return None
    told = error.retry_after if isinstance(error, Refused) else None
    return max(told or 0.0, retries.pause(attempt))


def _sent_elsewhere(reply: Reply) -> NotUnderstood:
    """Not followed: a credential is for the address that it was given with, and for no other."""
    elsewhere = reply.headers.get("location", "")
    return NotUnderstood(
        f"The server sends on to {elsewhere or 'another address'}; say that server's address instead"
    )


def _refusal(reply: Reply) -> Refused:
    try:
        said = json.loads(reply.body)
    except (ValueError, RecursionError):
        said = None
    told = reply.headers.get("retry-after", "")
    retry_after = float(told) if told.isdecimal() else None
    return refused(reply.status, said if isinstance(said, dict) else {}, retry_after)  # pyright: ignore[reportUnknownArgumentType]


def written(body: Mapping[str, Any] | Model | None) -> bytes | None:
    """As JSON; of a model only what was set, so that a server hears of no field that nobody meant.

    Raises ClientError for what JSON cannot say: NaN, bytes, text that is no Unicode, what holds itself.
    """
    if body is None:
        return None
    try:
        if isinstance(body, Mapping):
            return json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        return body.model_dump_json(by_alias=True, exclude_unset=True).encode()
    except UnicodeEncodeError:
        raise ClientError("The request has text that is no Unicode") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ClientError(f"The request cannot be written as JSON: {error}") from None


def not_understood(reason: str) -> NotUnderstood:
    """An answer that came, and is none of this API's."""
    return NotUnderstood(
        f"The server's answer is not what this client knows ({reason}); "
        "is it a tidemill server, and as new as the client?"
    )
