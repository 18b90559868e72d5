"""Route: the numbers of the whole deployment, for its operator's monitoring.

They are nobody else's: without the setting ``metrics_token`` only a process on this machine may read
them; with it, whoever shows it.
"""

from __future__ import annotations

import ipaddress
from hmac import compare_digest

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tidemill.actions.metrics import scrape
from tidemill.api.answering import context_of
from tidemill.api.callers import address_of
from tidemill.api.describe import describe
from tidemill.model.errors import Forbidden, Unauthenticated

router = APIRouter()

FORWARDED = ("x-forwarded-for", "forwarded", "via", "x-real-ip")


@router.get(
    "/metrics",
    **describe(
        "The deployment in numbers, for Prometheus; for this machine, or for who shows metrics_token",
        gives={"text/plain": {"schema": {"type": "string"}}},
        fails=(401, 403),
        public=True,
    ),
)
async def get_metrics(request: Request) -> Response:
    _check_reader(request)
    text = await scrape(context_of(request))
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"})


def _check_reader(request: Request) -> None:
    """Raises Unauthenticated, Forbidden."""
    wanted: str = context_of(request).settings.metrics_token
    if wanted:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not compare_digest(shown.strip().encode(), wanted.encode()):
            raise Unauthenticated(
                "Metrics are for who shows metrics_token as a bearer token", code="noMetrics"
            )
    elif not _is_local(request):
        raise Forbidden(
            "Metrics are for this machine; from elsewhere, the setting metrics_token says what to show",
            code="metricsAreLocal",
        )


def _is_local(request: Request) -> bool:
    """Whether a process of this machine asks, and for itself.

    A proxy on this machine asks for others: whom for, only the word of a trusted one tells.
    """
    peer = request.client.host if request.client is not None else ""
    address = address_of(request)
    if address == peer and any(name in request.headers for name in FORWARDED):
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
