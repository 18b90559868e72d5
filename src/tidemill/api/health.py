"""Routes: alive, and ready."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.health import ready
from tidemill.api.answering import answer, context_of, failure
from tidemill.api.describe import describe
from tidemill.wire.health import AliveAnswer

router = APIRouter()


@router.get("/healthz", **describe("Alive", gives=AliveAnswer, public=True))
async def get_alive(request: Request) -> Response:
    return answer(AliveAnswer(status="ok"))


@router.get("/readyz", **describe("The database and the drivers answer", gives=AliveAnswer, public=True))
async def get_ready(request: Request) -> Response:
    problems = await ready(context_of(request))
    if not problems:
        return answer(AliveAnswer(status="ok"))
    said = "; ".join(f"{what}: {why}" for what, why in problems.items())
    return failure(503, {"message": f"Not ready: {said}", "error": "notReady", "problems": problems})
