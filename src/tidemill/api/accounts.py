"""Routes: login, logout, password, me, and the public keys of the tokens."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tidemill.actions.login import login
from tidemill.actions.logout import logout
from tidemill.actions.password import change_password
from tidemill.api.answering import answer, body_of, context_of, throttle_of
from tidemill.api.callers import COOKIE, address_of, refuse_forged, signed_in
from tidemill.api.describe import describe
from tidemill.wire.accounts import EmptyRequest, LoginRequest, MeAnswer, PasswordRequest, TokenAnswer
from tidemill.wire.answers import Nothing
from tidemill.wire.health import KeySetAnswer

router = APIRouter()


@router.post(
    "/api/user/login",
    **describe("Log in", takes=LoginRequest, gives=TokenAnswer, fails=(401, 403, 429), public=True),
)
async def post_login(request: Request) -> Response:
    refuse_forged(request)
    sent = await body_of(request, LoginRequest)
    token = await login(
        context_of(request),
        throttle_of(request),
        username=sent.username,
        password=sent.password,
        address=address_of(request),
    )
    return _with_token(request, token)


@router.post(
    "/api/user/logout",
    **describe("Log out everywhere: every access token ends", takes=EmptyRequest, gives=Nothing),
)
async def post_logout(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    await body_of(request, EmptyRequest)
    await logout(context_of(request), caller)
    response = answer(Nothing())
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax", secure=_secure(request))
    return response


@router.post(
    "/api/user/password",
    **describe(
        "Change the password; every access token but the returned one ends",
        takes=PasswordRequest,
        gives=TokenAnswer,
        fails=(409, 429),
    ),
)
async def post_password(request: Request) -> Response:
    caller = await signed_in(request, changes=True)
    sent = await body_of(request, PasswordRequest)
    token = await change_password(
        context_of(request),
        throttle_of(request),
        caller,
        old=sent.oldPassword,
        new=sent.newPassword,
        address=address_of(request),
    )
    return _with_token(request, token)


@router.get("/api/user/me", **describe("The caller's account", gives=MeAnswer))
async def get_me(request: Request) -> Response:
    return answer(MeAnswer.of(await signed_in(request, changes=False, by_instance=True)))


@router.get(
    "/api/.well-known/jwks.json",
    **describe("The public keys of the access tokens", gives=KeySetAnswer, public=True),
)
async def get_jwks(request: Request) -> Response:
    response = answer(KeySetAnswer.model_validate(context_of(request).tokens.jwks()))
    response.headers["Cache-Control"] = "public, max-age=300"
    return response


def _with_token(request: Request, token: str) -> Response:
    seconds = context_of(request).tokens.seconds
    response = answer(TokenAnswer(accessToken=token, accessExpire=seconds))
    response.set_cookie(
        COOKIE, token, max_age=seconds, path="/", httponly=True, samesite="lax", secure=_secure(request)
    )
    return response


def _secure(request: Request) -> bool:
    return bool(request.app.state.secure_cookie)
