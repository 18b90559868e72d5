"""The HTTP application: all routes, and the one table from errors to HTTP."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tidemill.actions.context import Context
from tidemill.actions.operator import NO_SUCH_PATH
from tidemill.actions.throttle import Throttle
from tidemill.api import (
    accounts,
    admin,
    apikeys,
    billing,
    caps,
    catalogue,
    events,
    health,
    instances,
    metrics,
    sshkeys,
)
from tidemill.api.answering import context_of, failure
from tidemill.api.callers import Trust
from tidemill.api.describe import document
from tidemill.api.edge import Edge, TooLarge
from tidemill.model.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotEnoughMoney,
    NotFound,
    TidemillError,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
)
from tidemill.version import VERSION

_log = structlog.get_logger("tidemill.api")

# What is not in the table (nor below what is) is nobody's to see: 500.
STATUS: dict[type[TidemillError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    NotEnoughMoney: 402,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    TooManyAttempts: 429,
    Unavailable: 503,
}
WHOLE = (instances, events, accounts, apikeys, sshkeys, catalogue, billing, caps, admin, health, metrics)
WATCHED = (health, metrics)  # what a server without the API answers to those who watch it
NOT_LOGGED_IN: dict[str, object] = {"code": -1, "message": str(Unauthenticated())}


def create_app(context: Context) -> FastAPI:
    """The application over ``context``. Raises Misconfigured."""
    settings = context.settings
    serves_api = settings.role != "loop"
    over_tls = settings.public_url.startswith("https:")
    app = FastAPI(
        title="tidemill",
        version=VERSION,
        description="A GPU cloud rented by the hour, on machines you own.",
        openapi_url="/api/openapi.json" if serves_api else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    app.state.throttle = Throttle(context.database, context.clock, settings)
    app.state.trust = Trust.of(settings.public_url, settings.trusted_proxies)
    app.state.secure_cookie = {"true": True, "false": False}.get(settings.secure_cookie, over_tls)
    for module in WHOLE if serves_api else WATCHED:
        app.include_router(module.router)
    app.add_middleware(Edge, limit=settings.body_limit, over_tls=over_tls, metrics=context.metrics)
    app.add_exception_handler(TidemillError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.openapi = lambda: _documented(app)
    return app


def _documented(app: FastAPI) -> dict[str, object]:
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return app.openapi_schema


def status_of(error: TidemillError) -> int | None:
    """The row of the table that the error, or the nearest class above it, stands in."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, TidemillError):
        raise error
    status = status_of(error)
    if status is None:
        raise error
    if error.detail:
        _log.warning("refused", path=request.url.path, error=error.code, detail=error.detail)
    content: dict[str, object] = {"message": error.message, "error": error.code}
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
        plain = error.code == Unauthenticated.code
        content = NOT_LOGGED_IN if plain else {"code": -1, **content}
    elif isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, TooLarge):
        headers["Connection"] = "close"
    return failure(status, content, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    """What the router itself answers: no such path, no such method, a body that ended early."""
    if not isinstance(error, HTTPException):
        raise error
    said = {
        404: ("This server has no API, only /healthz, /readyz and /metrics", "pathNotFound")
        if context_of(request).settings.role == "loop"
        else (NO_SUCH_PATH, "pathNotFound"),
        405: (
            "This path does not take this method; the header Allow says which it takes",
            "methodNotAllowed",
        ),
    }
    message, code = said.get(error.status_code, (str(error.detail), "error"))
    return failure(error.status_code, {"message": message, "error": code}, error.headers)
