"""Calls whose requests and answers are the models of ``tidemill.wire``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from tidemill.client.effects import Flow, Outgoing, Reply, Steps
from tidemill.client.errors import ClientError
from tidemill.client.kinds import K
from tidemill.client.paging import walk
from tidemill.client.sending import Manner, exchange, not_understood, written
from tidemill.client.service import Service
from tidemill.client.subject import Subject
from tidemill.wire.answers import Answer
from tidemill.wire.fields import Request
from tidemill.wire.limits import PAGE_SIZE_MOST
from tidemill.wire.pages import Pager, PagerInfo
from tidemill.wire.problem import explain

A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Request)
T = TypeVar("T")


class Modelled(Subject[K]):
    """Calls about one subject, by models."""

    def _get(self, path: str, gives: type[A], query: Mapping[str, str] | None = None) -> Steps[A]:
        return call(self.manner, "GET", path, gives, repeatable=True, query=query)

    def _post(
        self,
        path: str,
        gives: type[A],
        body: Request | Mapping[str, Any] | None = None,
        *,
        repeatable: bool,
        headers: Mapping[str, str] | None = None,
    ) -> Steps[A]:
        return call(self.manner, "POST", path, gives, body=body or {}, repeatable=repeatable, headers=headers)


def pages(
    ask: Callable[[Pager], Steps[A]],
    rows: Callable[[A], list[T]],
    about: Callable[[A], PagerInfo],
    *,
    identity: Callable[[T], object],
    size: int = PAGE_SIZE_MOST,
) -> Flow[T]:
    """All rows of all pages, each once."""
    return walk(
        lambda number: ask(Pager(currentPage=number, pageSize=size)),
        rows,
        lambda page: about(page).totalEntries,
        identity=identity,
        size=size,
    )


def checked(model: type[R], said: Mapping[str, Any]) -> R:
    """A request of these fields. Raises ClientError, in the server's own words, for what no server takes."""
    try:
        return model.model_validate(said)
    except ValidationError as error:
        raise ClientError(explain(error).message) from None


def call(
    manner: Manner,
    method: str,
    path: str,
    gives: type[A],
    *,
    body: Request | Mapping[str, Any] | None = None,
    repeatable: bool,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> Steps[A]:
    """Send it until there is an answer, and give that. Raises Refused, NoAnswer, NotUnderstood."""
    sent = Outgoing(method, path, written(body), headers or {}, query or {})
    reply = yield from exchange(manner.retries, sent, repeatable=repeatable)
    return understood(reply, gives, manner.service)


def understood(reply: Reply, gives: type[A], service: Service) -> A:
    """The answer as a model. Raises NotUnderstood."""
    try:
        if service is Service.TIDEMILL:
            return gives.model_validate_json(reply.body)
        return gives.model_validate(_without_nulls(json.loads(reply.body)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
    except (ValueError, RecursionError):
        reason = "it is no JSON"
    raise not_understood(reason)


def _without_nulls(value: Any) -> Any:
    """What a service that is not ours may say by null it may as well leave out."""
    if isinstance(value, dict):
        items: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
        return {name: _without_nulls(item) for name, item in items.items() if item is not None}
    if isinstance(value, list):
        each: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return [_without_nulls(item) for item in each]
    return value
