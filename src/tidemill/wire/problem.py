"""One sentence for whatever is wrong with a request, in the contract's own words.

The field types of :mod:`tidemill.wire.fields` raise a :func:`refusal`; pydantic adds where it
happened and, of its own, only what is missing or is no object or array. :func:`explain` turns the
first of these (fields are declared in the order of the contract's tables) into the one message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from tidemill.model.errors import Invalid

NOT_SET = "fieldNotSet"
TYPE_MISMATCH = "typeMismatch"
NOT_IN_OPTIONS = "notInOptions"
BROKEN_RULE = "invalidField"
NOT_OFFERED = "notOffered"

_TEXT = {
    NOT_SET: 'field "{path}" is not set',
    TYPE_MISMATCH: 'type mismatch for field "{path}"',
    NOT_IN_OPTIONS: 'value "{value}" for field "{path}" is not defined in options "[{options}]"',
    NOT_OFFERED: 'field "{path}" is not offered by this server yet',
    BROKEN_RULE: 'field "{path}" {rule}',
}
_SHOWN_MOST = 100
# Not shown again: line breaks and the like could forge lines where the message is printed.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown(value: str) -> str:
    """``value`` as a message may show it: short, and on one line."""
    clean = _UNPRINTABLE.sub("?", value[: _SHOWN_MOST + 1])
    return clean if len(clean) <= _SHOWN_MOST else clean[:_SHOWN_MOST] + "..."


def refusal(
    kind: str, *, at: str = "", rule: str = "", value: str = "", options: Sequence[str] = ()
) -> PydanticCustomError:
    """What a field type raises. ``at`` is a path below the field (``.KEY``, ``[3]``)."""
    context: dict[str, Any] = {"at": at, "rule": rule, "value": shown(value), "options": " ".join(options)}
    return PydanticCustomError("refusal", "{kind}", {"kind": kind, **context})


def explain(error: ValidationError) -> Invalid:
    """The first problem of a request as the error to answer with."""
    first = error.errors(include_url=False, include_input=True)[0]
    path = _path(first["loc"])
    if first["type"] == "refusal":
        context = first.get("ctx", {})
        return _invalid(context["kind"], path + context["at"], context)
    if first["type"] == "missing" or first["input"] is None:
        return _invalid(NOT_SET, path, {})
    if not first["loc"]:
        return Invalid("The request body is not a JSON object", code=TYPE_MISMATCH)
    return _invalid(TYPE_MISMATCH, path, {})


def _invalid(kind: str, path: str, context: dict[str, Any]) -> Invalid:
    return Invalid(_TEXT[kind].format_map({**context, "path": path}), code=kind)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{shown(part)}" if path else shown(part)
    return path
