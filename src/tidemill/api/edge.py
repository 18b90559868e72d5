"""What every request passes first and every answer last.

A bound on bodies, an id for the request, security headers, and the end of every exception that
nobody expected: 500 to the caller, kind and place (never values, which may be secrets) to the log.
"""

from __future__ import annotations

import json
import secrets
import traceback
from time import perf_counter

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidemill.metrics import Metrics
from tidemill.model.errors import TidemillError

_log = structlog.get_logger("tidemill.api")

API = "/api/"


class TooLarge(TidemillError):
    """The caller must send less."""

    code = "bodyTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than {limit} bytes")


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, limit: int, over_tls: bool, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._limit = limit
        self._headers: tuple[tuple[bytes, bytes], ...] = (
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
        )
        if over_tls:
            self._headers += ((b"strict-transport-security", b"max-age=31536000"),)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        began = perf_counter()
        started = False
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._limit:
                    raise TooLarge(self._limit)
            return message

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                seconds = perf_counter() - began
                self._metrics.answered(_route(scope), scope["method"], message["status"], seconds)
                message["headers"] = self._dress(message.get("headers", []), scope["path"], request_id)
            await send(message)

        try:
            if self._declared(scope) > self._limit:
                raise TooLarge(self._limit)
            await self._app(scope, limited, dressed)
        except ClientDisconnect:
            return
        except TooLarge as error:
            if not started:
                await _send(dressed, 413, error.message, error.code, close=True)
        except Exception as error:  # the last line of defence: whatever it is, the caller gets an answer
            _report(error, scope, request_id)
            if not started:
                await _send(
                    dressed,
                    500,
                    f"Something went wrong in the server; its log says what, under request {request_id}",
                    "internal",
                )

    def _declared(self, scope: Scope) -> int:
        for name, value in scope["headers"]:
            if name == b"content-length":
                return int(value) if value.isdigit() else 0
        return 0

    def _dress(
        self, headers: list[tuple[bytes, bytes]], path: str, request_id: str
    ) -> list[tuple[bytes, bytes]]:
        dressed = [*headers, *self._headers, (b"x-request-id", request_id.encode("ascii"))]
        if path.startswith(API):
            dressed.append((b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"))
            if not any(name == b"cache-control" for name, _ in headers):
                dressed.append((b"cache-control", b"no-store"))
        return dressed


def _route(scope: Scope) -> str:
    """The path of the route that answers, its parameters by name; "" where there is none."""
    return str(getattr(scope.get("route"), "path_format", ""))


async def _send(send: Send, status: int, message: str, code: str, *, close: bool = False) -> None:
    body = json.dumps({"message": message, "error": code}).encode("utf-8")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _report(error: BaseException, scope: Scope, request_id: str) -> None:
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 8:
        places = traceback.extract_tb(cause.__traceback__)
        chain.append(
            f"{type(cause).__module__}.{type(cause).__qualname__} at "
            + " < ".join(f"{place.filename}:{place.lineno} {place.name}" for place in reversed(places))
        )
        cause = cause.__cause__ or cause.__context__
    _log.error("request failed", request=request_id, method=scope["method"], path=scope["path"], errors=chain)
