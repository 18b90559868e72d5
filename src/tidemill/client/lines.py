"""The client's connection to the server: performs effects, by httpx."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tidemill.client.effects import Effect, Now, Open, Outgoing, Read, Reply, Send, SignIn, Sleep
from tidemill.client.errors import ClientError, NoAnswer, NotConnected, NotUnderstood, TimedOut
from tidemill.version import VERSION

# Importing httpx imports its command line, with rich, click and pygments, where these are installed: a
# third of the time of a short command. It does without when that cannot be imported.
_KEPT_OUT = "httpx._main"
_was_there = _KEPT_OUT in sys.modules
if not _was_there:
    sys.modules[_KEPT_OUT] = None  # type: ignore[assignment]
try:
    import httpx
finally:
    if not _was_there:
        del sys.modules[_KEPT_OUT]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
H = TypeVar("H")
AGENT = f"tidemill/{VERSION}"


@dataclass(slots=True)
class _Tap:
    """An httpx answer that is still coming."""

    status: int
    refusal: Reply | None
    media_type: str
    response: httpx.Response
    chunks: Any


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, who calls, and how long to wait for it (seconds)."""

    url: str
    api_key: str | None
    token: str | None
    timeout: float

    def __post_init__(self) -> None:
        """Raises ClientError for what is no address."""
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ClientError(
                f"{self.url!r} is no address of a server; it looks like https://gpu.example.org"
            )
        if self.api_key is not None and self.token is not None:
            raise ClientError("Either an API key or an access token, not both")
        for secret in (self.api_key, self.token):
            if secret is not None and not (secret.isascii() and secret.isprintable() and secret.strip()):
                raise ClientError("The API key or access token has characters that none can have")

    def options(self) -> dict[str, Any]:
        """For both kinds of httpx clients."""
        parts = urlsplit(self.url)
        return {
            "base_url": self.url.rstrip("/").removesuffix("/api"),
            "headers": {"User-Agent": AGENT, "Accept": "application/json", **_credentials(self)},
            "timeout": httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0)),
            # Reading the machine's certificates takes its time, and plain HTTP needs none.
            "verify": ssl.create_default_context() if parts.scheme == "https" else False,
            "follow_redirects": False,
            # A proxy that the environment names is for other machines.
            "trust_env": parts.hostname not in LOOPBACK,
            "limits": httpx.Limits(max_connections=100, max_keepalive_connections=20),
        }


def _credentials(address: Address) -> dict[str, str]:
    if address.api_key is not None:
        return {"X-API-Key": address.api_key}
    return {} if address.token is None else {"Authorization": f"Bearer {address.token}"}


def _sign_in(headers: httpx.Headers, token: str | None) -> None:
    headers.pop("X-API-Key", None)
    headers.pop("Authorization", None)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"


def _arguments(sent: Outgoing, timeout: float) -> dict[str, Any]:
    headers = dict(sent.headers)
    if sent.body is not None:
        headers.setdefault("Content-Type", "application/json")
    arguments: dict[str, Any] = {
        "method": sent.method,
        "url": sent.path,
        "content": sent.body,
        "headers": headers,
        "params": dict(sent.query) or None,
    }
    if sent.quiet_for is not None:
        arguments["timeout"] = httpx.Timeout(timeout, connect=min(timeout, 10.0), read=sent.quiet_for)
    return arguments


def _reply(response: httpx.Response) -> Reply:
    headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content)


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _failed(url: str, timeout: float, error: Exception) -> ClientError:
    """What kept the answer from coming, in words. The text of httpx's error is for the cause alone."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return NotConnected(f"{url} does not answer; is the address right, and a firewall open?", sent=False)
    if isinstance(error, httpx.ConnectError):
        return NotConnected(f"No connection to {url}: {_reason(error)}", sent=False)
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} gave no answer within {timeout:g} seconds", sent=True)
    if isinstance(error, httpx.TransportError):
        return NoAnswer(f"The connection to {url} broke off", sent=True)
    return NotUnderstood(f"What came from {url} is no answer of an API")


def _reason(error: Exception) -> str:
    """The innermost cause: the operating system's or the certificate's own words."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__


def _made(kind: Callable[..., H], address: Address) -> H:
    """A client of httpx, which reads the proxies of the environment. Raises ClientError for those."""
    try:
        return kind(**address.options())
    except (ValueError, ImportError, httpx.InvalidURL) as error:  # its words leave out passwords
        raise ClientError(
            f"HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY of the environment cannot be used: {error}"
        ) from None


_ERRORS = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL)


class BlockingLine:
    """Waits for each effect."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http = _made(httpx.Client, address)

    def close(self) -> None:
        self._http.close()

    def perform(self, effect: Effect, taps: list[Any]) -> Any:
        """Raises ClientError for what httpx raises."""
        try:
            match effect:
                case Send(request):
                    return _reply(self._http.request(**_arguments(request, self._address.timeout)))
                case Open(request):
                    built = self._http.build_request(**_arguments(request, self._address.timeout))
                    response = self._http.send(built, stream=True)
                    tap = _Tap(
                        response.status_code, None, _media_type(response), response, response.iter_bytes()
                    )
                    taps.append(tap)
                    if not response.is_success:
                        response.read()
                        tap.refusal = _reply(response)
                    return tap
                case Read(tap):
                    return next(tap.chunks, None)  # type: ignore[attr-defined]
                case Sleep(seconds):
                    return time.sleep(seconds)
                case Now():
                    return time.monotonic()
                case SignIn(token):
                    return _sign_in(self._http.headers, token)
        except _ERRORS as error:
            raise _failed(self._address.url, self._address.timeout, error) from error

    def shut(self, taps: list[Any]) -> None:
        for tap in taps:
            tap.response.close()


class AwaitedLine:
    """Awaits each effect; on asyncio and on trio, as httpx."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http = _made(httpx.AsyncClient, address)

    async def close(self) -> None:
        await self._http.aclose()

    async def perform(self, effect: Effect, taps: list[Any]) -> Any:
        """Raises ClientError for what httpx raises."""
        try:
            match effect:
                case Send(request):
                    return _reply(await self._http.request(**_arguments(request, self._address.timeout)))
                case Open(request):
                    built = self._http.build_request(**_arguments(request, self._address.timeout))
                    response = await self._http.send(built, stream=True)
                    tap = _Tap(
                        response.status_code, None, _media_type(response), response, response.aiter_bytes()
                    )
                    taps.append(tap)
                    if not response.is_success:
                        await response.aread()
                        tap.refusal = _reply(response)
                    return tap
                case Read(tap):
                    return await anext(tap.chunks, None)  # type: ignore[attr-defined]
                case Sleep(seconds):
                    from anyio import sleep

                    return await sleep(seconds)
                case Now():
                    return time.monotonic()
                case SignIn(token):
                    return _sign_in(self._http.headers, token)
        except _ERRORS as error:
            raise _failed(self._address.url, self._address.timeout, error) from error

    async def shut(self, taps: list[Any]) -> None:
        for tap in taps:
            await tap.response.aclose()
