"""Routes: what can be rented."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.catalogue import images, regions, stock
from tidemill.api.answering import answer, body_of, context_of, currency_of
from tidemill.api.callers import signed_in
from tidemill.api.describe import describe
from tidemill.wire.accounts import EmptyRequest
from tidemill.wire.catalogue import ImageListAnswer, RegionListAnswer, StockAnswer

router = APIRouter(prefix="/api/resource")


@router.post(
    "/user/instance/list",
    **describe("Instance types with price and stock", takes=EmptyRequest, gives=StockAnswer),
)
async def post_stock(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(StockAnswer.of(await stock(context_of(request), caller), currency_of(request)))


@router.post("/image/list", **describe("Images", takes=EmptyRequest, gives=ImageListAnswer))
async def post_images(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(ImageListAnswer.of(await images(context_of(request), caller)))


@router.post("/region/list", **describe("Regions", takes=EmptyRequest, gives=RegionListAnswer))
async def post_regions(request: Request) -> Response:
    caller = await signed_in(request, changes=False)
    await body_of(request, EmptyRequest)
    return answer(RegionListAnswer.of(await regions(context_of(request), caller)))
