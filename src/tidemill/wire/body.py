"""From the bytes of a request to a checked model, or one sentence about what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from tidemill.model.errors import Invalid
from tidemill.wire.fields import Request
from tidemill.wire.problem import explain, shown

R = TypeVar("R", bound=Request)

NOT_JSON = "invalidJson"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(model: type[R], body: bytes) -> R:
    """Check ``body`` against ``model``; an empty body counts as ``{}``. Raises Invalid."""
    value: Any = decode(body) if body.strip() else {}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise explain(error) from None


def decode(body: bytes) -> Any:
    """The JSON value of ``body``, which must be UTF-8, finite and without repeated names.

    Raises Invalid, saying where.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8"))
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _not_json("half of a surrogate pair stands alone") from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except ValueError:  # int() of more digits than Python is willing to read
        raise _not_json("it holds a number with too many digits") from None
    return value


def _not_json(reason: str) -> Invalid:
    return Invalid(f"The request body is not valid JSON: {reason}", code=NOT_JSON)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise Invalid(f'field "{shown(name)}" is set twice in the request body', code=NOT_JSON)
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    raise _not_json(f"{name} is not a number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)
