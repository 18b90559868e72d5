"""Who is calling, from where, and whether another site could have made their browser do it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from fastapi import Request

from tidemill.actions.identify import by_api_key, by_token
from tidemill.api.answering import JSON, context_of
from tidemill.model.account import Caller, Scope
from tidemill.model.errors import Forbidden, Misconfigured, Unauthenticated

COOKIE = "AccessToken"
API_KEY_HEADER = "x-api-key"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose word is believed: our own origin (None: the Host header), and proxies in front of us."""

    origin: str | None
    proxies: tuple[Network, ...]

    @classmethod
    def of(cls, public_url: str, proxies: Sequence[str]) -> Trust:
        """Raises Misconfigured."""
        networks: list[Network] = []
        for proxy in proxies:
            try:
                networks.append(ipaddress.ip_network(proxy, strict=False))
            except ValueError:
                raise Misconfigured(f"setting trusted_proxies: {proxy!r} is no address or network") from None
        if public_url and origin_of(public_url) is None:
            raise Misconfigured(f"setting public_url: {public_url!r} is no http or https URL")
        return cls(origin_of(public_url) if public_url else None, tuple(networks))

    def believes(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.proxies)


def origin_of(url: str) -> str | None:
    """``scheme://host:port`` of a URL as one spelling; None for what has no such thing."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return f"{parts.scheme}://{parts.hostname}:{port}" if parts.hostname else None


async def signed_in(request: Request, *, changes: bool, by_instance: bool = False) -> Caller:
    """The caller; ``changes`` says whether the call changes anything.

    ``by_instance`` lets the key of an instance in, for a call that looks at whose it is.

    The first of X-API-Key, Authorization: Bearer and the cookie that is there decides. Raises
    Unauthenticated, and Forbidden for what may be forged or is beyond an API key's scope.
    """
    context = context_of(request)
    key = request.headers.get(API_KEY_HEADER)
    if key is not None:
        caller = await by_api_key(context, key)
        if caller.scope is Scope.INSTANCE and not by_instance:
            raise Forbidden(
                "The key of an instance may only see, stop, restart and terminate that instance",
                code="instanceKeyOnly",
            )
        if changes and caller.scope is Scope.READ:
            raise Forbidden("This API key may only read; use one with the scope full", code="readOnlyKey")
        return caller
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return await by_token(context, credentials.strip())
    token = request.cookies.get(COOKIE)
    if token is None:
        raise Unauthenticated
    caller = await by_token(context, token)
    if changes:
        refuse_forged(request)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JSON:
            raise Forbidden(
                "With the cookie, a call that changes something needs Content-Type: application/json",
                code="contentTypeRequired",
            )
    return caller


def refuse_forged(request: Request) -> None:
    """Raise Forbidden when the browser says that another site made it send this."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "").lower() == "cross-site" or (
        origin is not None and not _ours(request, origin)
    ):
        raise Forbidden(
            "This request was made by another site; the setting public_url says which one is ours",
            code="crossSite",
        )


def _ours(request: Request, origin: str) -> bool:
    own = cast(Trust, request.app.state.trust).origin
    if own is not None:
        return origin_of(origin) == own
    host = request.headers.get("host", "")
    named = {origin_of(f"{scheme}://{host}") for scheme in ("http", "https")} - {None}
    return origin_of(origin) in named


def address_of(request: Request) -> str:
    """The client's address: the last one in X-Forwarded-For that no trusted proxy stands behind."""
    trust = cast(Trust, request.app.state.trust)
    address = request.client.host if request.client is not None else ""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while trust.believes(address) and forwarded and forwarded[-1].strip():
        address = forwarded.pop().strip()
    return address
