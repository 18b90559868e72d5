"""The real application over a real database, spoken to without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import update
from starlette.routing import BaseRoute
from tests.cheap_passwords import CHEAP
from tests.stock import CPU_TYPE, IMAGE, REGION, HandClock, Stocked

from tidemill.actions.context import Context
from tidemill.actions.news import News
from tidemill.actions.tokens import Tokens
from tidemill.api.app import create_app
from tidemill.drivers.simulated.driver import SimulatedDriver
from tidemill.model.account import User
from tidemill.settings import Settings
from tidemill.store.schema import users
from tidemill.wake import Wake

PASSWORD = "correct horse"
HASH = CHEAP.hash(PASSWORD)
URL = "http://gpu.example.org:8420"
LAUNCH: dict[str, Any] = {
    "name": "my instance",
    "imageId": IMAGE.id,
    "instanceTypeId": CPU_TYPE.id,
    "region": REGION.id,
    "billing": {"chargeMode": "perHour", "duration": 1},
    "remoteStorages": [],
    "instanceConfiguration": {
        "extraDataDiskSizeDB": 0,
        "enableCommonData": False,
        "enableDocker": False,
        "dockerStorageSize": 0,
        "initScript": "",
    },
    "isSpotInstance": False,
    "nodePorts": [7891],
}


@dataclass
class Served:
    """An application, and clients of it; ``alice`` and ``bob`` have the same PASSWORD."""

    stocked: Stocked
    clock: HandClock
    context: Context
    app: FastAPI
    client: httpx.AsyncClient
    driver: SimulatedDriver

    def token(self, user: User | None = None) -> dict[str, str]:
        """The header of a logged-in user."""
        user = user or self.stocked.alice
        return {"Authorization": f"Bearer {self.context.tokens.issue(user, self.clock.now())}"}

    def cookie(self, user: User | None = None) -> dict[str, str]:
        return {"Cookie": "AccessToken=" + self.token(user)["Authorization"].removeprefix("Bearer ")}

    async def post(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """POST ``body`` as JSON, as alice unless ``headers`` say otherwise."""
        content = b"" if body is None else json.dumps(body).encode()
        said = self.token() if headers is None else dict(headers)
        return await self.client.post(
            path, content=content, headers={"Content-Type": "application/json"} | said
        )

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return await self.client.get(path, headers=self.token() if headers is None else dict(headers))

    async def launch(self) -> str:
        """A new instance of alice's."""
        answer = await self.post("/api/instance/create", LAUNCH)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["instanceId"])

    async def api_key(self, **fields: Any) -> dict[str, str]:
        """The header of a new API key of alice's."""
        answer = await self.post("/api/user/apikey/create", {"name": "test"} | fields)
        assert answer.status_code == 200, answer.text
        return {"X-API-Key": answer.json()["key"]}


@cache
def _tokens(keys: Path) -> Tokens:
    return Tokens(keys, "tidemill", "tidemill", 86400)


@cache
def _made_before(role: str) -> list[BaseRoute]:
    return []


def _with_routes(app: FastAPI, role: str) -> FastAPI:
    """The framework makes a router's routes of their models when it is first asked for one of them.

    That takes longer than most tests, so that all applications of a role have the routers of the first.
    """
    routes, made = app.router.routes, _made_before(role)
    own = [number for number, route in enumerate(routes) if type(route).__name__ == "_IncludedRouter"]
    assert own, "the framework makes its routes in another way now"
    made.extend(routes[number] for number in own if len(made) < len(own))
    for number, route in zip(own, made, strict=True):
        routes[number] = route
    return app


@asynccontextmanager
async def served(stocked: Stocked, clock: HandClock, keys: Path, **settings: Any) -> AsyncIterator[Served]:
    stocked.database.run(lambda connection: connection.execute(update(users).values(password_hash=HASH)))
    driver = SimulatedDriver(nodes=[], sleep=clock.sleep)
    context = Context(
        database=stocked.database,
        clock=clock,
        wake=Wake(),
        settings=Settings(**settings),
        tokens=_tokens(keys),
        drivers={REGION.id: driver},
        news=News(stocked.database),
    )
    app = _with_routes(create_app(context), context.settings.role)
    transport = httpx.ASGITransport(app, client=("198.51.100.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        yield Served(stocked, clock, context, app, client, driver)
