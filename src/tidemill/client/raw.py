"""Any call of the API by its path, and answers as they came: ``client.raw``.

For what this client has no call for yet, because the server is newer; and where a program is to be there at
once: pydantic and the models of ``tidemill.wire`` are not loaded for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidemill.client.effects import Flow, Outgoing, Reply, Steps
from tidemill.client.errors import ClientError
from tidemill.client.kinds import K, operation, stream
from tidemill.client.paging import walk
from tidemill.client.sending import exchange, not_understood, written
from tidemill.client.subject import Subject
from tidemill.wire.limits import PAGE_SIZE_MOST


class Fields(dict[str, Any]):
    """A JSON object. What it has under a name is also its attribute; None, where it has nothing.

    But for the names of a dict's own methods, such as ``items``: those are read as ``fields["items"]``.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own questions, not the API's names
            raise AttributeError(name)
        return self.get(name)


class Raw(Subject[K]):
    """``client.raw``."""

    @operation
    def get(self, path: str, query: Mapping[str, str] | None = None) -> Steps[Fields]:
        """Raises Refused, NoAnswer, NotUnderstood; ClientError for what is no path."""
        sent = Outgoing("GET", _path(path), query=query or {})
        return _object((yield from exchange(self.manner.retries, sent, repeatable=True)))

    @operation
    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, repeatable: bool = False
    ) -> Steps[Fields]:
        """``repeatable``: a second time does no harm, so it is sent again where no answer came.

        Raises Refused, NoAnswer, NotUnderstood; ClientError for what is no path, or what JSON cannot say.
        """
        sent = Outgoing("POST", _path(path), written(body or {}))
        return _object((yield from exchange(self.manner.retries, sent, repeatable=repeatable)))

    @stream
    def rows(
        self,
        path: str,
        name: str,
        body: Mapping[str, Any] | None = None,
        *,
        identity: str,
        page_size: int = PAGE_SIZE_MOST,
    ) -> Flow[Fields]:
        """All rows of a list that comes in pages, which an answer has under ``name``.

        ``identity`` says what in a row tells it from all others, with dots for what is deeper inside:
        ``instanceMetadata.instanceId``. Raises what ``post`` raises.
        """

        def ask(number: int) -> Steps[Fields]:
            pager = {"currentPage": number, "pageSize": page_size}
            return Raw.post.steps(self, path, {**(body or {}), "pager": pager}, repeatable=True)

        return walk(
            ask,
            lambda page: _rows(page, name),
            _total,
            identity=lambda row: _at(row, identity),
            size=page_size,
        )


def _path(said: str) -> str:
    """A whole address is none: the credentials would go to whatever machine it names."""
    if not said.startswith("/") or said.startswith("//"):
        raise ClientError(f"{said!r} is no path; one begins with a slash, as /api/instance/list does")
    return said


def _object(reply: Reply) -> Fields:
    try:
        said = json.loads(reply.body, object_hook=Fields)
    except (ValueError, RecursionError):
        raise not_understood("it is no JSON") from None
    if not isinstance(said, Fields):
        raise not_understood("it is no JSON object")
    return said


def _rows(page: Fields, name: str) -> list[Fields]:
    rows: Any = page.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, Fields) for row in rows):  # pyright: ignore[reportUnknownVariableType]
        raise not_understood(f"it has no list of {name}")
    return rows  # pyright: ignore[reportUnknownVariableType]


def _total(page: Fields) -> int:
    pager = page.get("pager")
    total = pager.get("totalEntries") if isinstance(pager, Fields) else None
    if not isinstance(total, int):
        raise not_understood("it does not say how many there are")
    return total


def _at(row: Fields, path: str) -> object:
    found: Any = row
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Fields) else None
    if not isinstance(found, str):
        raise not_understood(f"a row has no {path}")
    return found
