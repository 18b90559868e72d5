"""The OpenAPI document: what each route takes, gives, and can answer, said beside the route.

Routes read their requests themselves (one strict parser, one message), so FastAPI cannot see what
they take; :func:`describe` says it in one line, and :func:`document` puts the schemas in.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from tidemill.wire.answers import Answer, Failure, NotLoggedIn
from tidemill.wire.fields import Request

CALLER_SCHEMES: dict[str, dict[str, str]] = {
    "cookie": {"type": "apiKey", "in": "cookie", "name": "AccessToken"},
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_REF = "#/components/schemas/{model}"

_MEANING = {
    400: "the request must be changed; the message says how",
    401: "not logged in, or the login expired",
    402: "not enough money",
    403: "not for this caller",
    404: "not there, or not the caller's",
    409: "the present state of things forbids it",
    413: "the body is too large",
    429: "too many attempts; Retry-After says how many seconds to wait",
    500: "something went wrong in the server",
    503: "something that the server stands on gives no answer",
}
_ALWAYS = (500, 503)


def describe(
    summary: str,
    *,
    takes: type[Request] | None = None,
    gives: type[Answer] | UnionType | Mapping[str, Any],
    also: Mapping[str, Any] | None = None,
    fails: tuple[int, ...] = (),
    public: bool = False,
    parameters: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """Keyword arguments for a route's decorator.

    ``gives`` is a model, or the OpenAPI ``content`` of an answer that is not JSON, which ``also`` is
    beside a model. Unless
    ``public``, a caller is needed and 401 and 403 are added; a body adds 400 and 413.
    """
    body = () if takes is None else (400, 413)
    statuses = sorted({*fails, *body, *_ALWAYS, *(() if public else (401, 403))})
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": NotLoggedIn if status == 401 else Failure, "description": _MEANING[status]}
        for status in statuses
    }
    if isinstance(gives, Mapping):
        responses[200] = {"description": "done", "content": dict(gives)}
    else:
        responses[200] = {"model": gives, "description": "done"} | ({"content": dict(also)} if also else {})
    extra: dict[str, Any] = {"security": [] if public else [{name: []} for name in CALLER_SCHEMES]}
    if takes is not None:
        extra["requestBody"] = {
            "required": any(field.is_required() for field in takes.model_fields.values()),
            "content": {"application/json": {"schema": {"$ref": _REF.format(model=takes.__name__)}}},
        }
    if parameters:
        extra["parameters"] = list(parameters)
    return {"summary": summary, "responses": responses, "openapi_extra": extra, "response_model": None}


def in_path(name: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": pattern},
    }


def in_query(name: str, schema: dict[str, Any], meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": meaning, "schema": schema}


def in_header(name: str, schema: dict[str, Any], meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": meaning, "schema": schema}


def _below(model: type[Request]) -> list[type[Request]]:
    """Every model that is made of this one, also of one that is."""
    direct = model.__subclasses__()
    return direct + [each for child in direct for each in _below(child)]


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    bodies = [model for model in _below(Request) if model.__module__.startswith("tidemill.wire.")]
    _, schemas = models_json_schema([(model, "validation") for model in bodies], ref_template=_REF)
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas.get("$defs", {}))
    components["securitySchemes"] = CALLER_SCHEMES
    return found
