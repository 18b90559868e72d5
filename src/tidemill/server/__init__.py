"""The composition root: the only place where store, drivers, clock, loops and API are put together."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from tidemill import logs
from tidemill.actions.context import Context
from tidemill.actions.news import News
from tidemill.actions.tokens import Tokens
from tidemill.api.app import create_app
from tidemill.catalogue import Tables
from tidemill.clock import Clock, SystemClock
from tidemill.deployment import (
    SERVER_LOCK,
    deployment_label,
    make_tokens,
    only_server,
    only_user,
    open_database,
    prepare_folder,
    url_of,
)
from tidemill.drivers.contract import Driver
from tidemill.metrics import Metrics
from tidemill.model.errors import Unavailable
from tidemill.reconcile.billing import Billing
from tidemill.reconcile.loop import Loop
from tidemill.reconcile.presence import Presence
from tidemill.server import offering, together
from tidemill.server.bells import Bells, NewsBells
from tidemill.server.engines import engine_of, make_drivers
from tidemill.server.stopping import Stopping
from tidemill.server.web import Web, listening
from tidemill.settings import Configuration, Settings
from tidemill.store import servers
from tidemill.store.bell import NEWS, Bell
from tidemill.store.database import Database
from tidemill.version import VERSION

log = structlog.get_logger("server")

GC_THRESHOLD = (20_000, 20, 50)  # requests make few cycles and many objects
LEAVE_SECONDS = 1.5  # for saying that this server goes
CLOSE_SECONDS = 2.0  # for each driver to let its engine go


@dataclass(frozen=True, slots=True)
class Server:
    """One server, put together and not at work yet."""

    context: Context
    presence: Presence
    bells: Bells
    news_bells: NewsBells
    loops: list[Loop]
    billing: Billing

    async def run(self, stopping: Stopping) -> None:
        """Serve until told to stop, then finish what is under way. Raises Misconfigured."""
        settings = self.context.settings
        web = Web(create_app(self.context), listening(settings.host, settings.port))
        background = [
            asyncio.create_task(self.presence.run()),
            asyncio.create_task(self.bells.run()),
            asyncio.create_task(self.news_bells.run()),
        ]
        if self.loops:
            background.append(asyncio.create_task(self.billing.run(), name="billing"))
        loops = [asyncio.create_task(loop.run(), name="reconcile") for loop in self.loops]
        serving = asyncio.create_task(web.run())
        log.info(
            "serving",
            role=settings.role,
            host=settings.host,
            port=settings.port,
            data_dir=str(settings.data_dir),
        )
        try:
            await stopping.unless_asked(_first_failure(serving, *loops, *background))
        finally:
            log.info("stopping")
            self.context.stopping.set()
            for loop in loops:
                loop.cancel()
            await web.drain()
            await asyncio.gather(serving, *loops, return_exceptions=True)
            await web.cut()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)


async def _first_failure(*tasks: asyncio.Task[None]) -> None:
    """Waits for ever, unless one of them fails: raises what it failed with."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def serve(configuration: Configuration, clock: Clock, place: str) -> None:
    """Run a server until it is told to stop. Raises Misconfigured, Unavailable.

    ``place`` is the data folder that it holds for itself alone, "" for none.
    """
    stopping = Stopping()
    async with AsyncExitStack() as ends:
        server = await stopping.unless_asked(_put_together(configuration, clock, place, ends))
        if server is not None:
            await server.run(stopping)
    log.info("stopped")


async def _put_together(
    configuration: Configuration, clock: Clock, place: str, ends: AsyncExitStack
) -> Server:
    settings = configuration.settings
    runs_loops = settings.role != "api"
    tables = Tables(configuration.tables)
    regions = offering.regions_of(settings, tables)
    metrics = Metrics(version=VERSION, regions={region.id: region.name for region in regions})
    database = open_database(settings)
    ends.callback(database.close)
    database.count_in(metrics)
    deployment = deployment_label(database, settings)
    tokens = make_tokens(settings)
    if runs_loops:
        offering.check_regions(database, regions)
    presence = await _join(database, clock, settings, tokens, place, ends)
    drivers = make_drivers(configuration, tables, regions, deployment, clock, to_look=not runs_loops)
    for driver in drivers.values():
        ends.push_async_callback(_close, driver)
    if runs_loops:
        given = {region.id: engine_of(region, settings, place) for region in regions}
        await together.agree(
            presence, clock, settings, offering.elsewhere(database, settings, regions, given)
        )
        await offering.publish(database, settings, tables, regions, drivers, given, presence.id, clock.now())
    others = None if database.is_sqlite else Bell(database, presence.name)
    bells = Bells([region.id for region in regions] if runs_loops else [], others, clock)
    news = News(database)
    their_news = None if database.is_sqlite else Bell(database, presence.name, NEWS)
    news_bells = NewsBells(news, their_news, clock)
    database.when_recorded(news_bells.recorded)
    context = Context(
        database=database,
        clock=clock,
        wake=bells,
        settings=settings,
        tokens=tokens,
        drivers=drivers,
        news=news,
        metrics=metrics,
    )
    loops = [
        Loop(
            database=database,
            clock=clock,
            wake=wake,
            settings=settings,
            region_id=region_id,
            driver=drivers[region_id],
            owner=presence.name,
            metrics=metrics,
            presence=presence,
        )
        for region_id, wake in bells.of.items()
    ]
    billing = Billing(database, clock, settings, bells, metrics)
    return Server(context, presence, bells, news_bells, loops, billing)


async def _join(
    database: Database,
    clock: Clock,
    settings: Settings,
    tokens: Tokens,
    place: str,
    ends: AsyncExitStack,
) -> Presence:
    """Be one of the deployment's servers. Whoever was in this one's place is known to be gone."""
    if database.is_sqlite:
        database.run(partial(servers.bury_all, at=clock.now()))
    elif place:
        database.run(partial(servers.bury_those_at, place=place, at=clock.now()))
    keys = tokens.key_ids if settings.role != "loop" else ()
    presence = Presence(
        database,
        clock,
        settings,
        name=f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}",
        place=place,
        address=f"{settings.host}:{settings.port}",
        token_keys=keys,
    )
    ends.push_async_callback(_leave, presence)
    await together.agree(presence, clock, settings, together.copies_of(place))
    await together.agree(presence, clock, settings, together.strangers_to(keys))
    return presence


async def _leave(presence: Presence) -> None:
    with suppress(Unavailable, TimeoutError):  # the others notice
        async with asyncio.timeout(LEAVE_SECONDS):
            await presence.leave()


async def _close(driver: Driver) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await driver.close()


def main(configuration: Configuration) -> None:
    """Serve in the foreground. Raises Misconfigured."""
    settings = configuration.settings
    logs.configure(settings.log_format)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    folder = prepare_folder(settings)
    url = url_of(settings)
    together.check_role(settings, url)
    gc.freeze()  # what was imported stays; do not look through it again and again
    gc.set_threshold(*GC_THRESHOLD)
    with ExitStack() as held:
        place = ""
        if settings.role != "api":  # an API alone changes nothing below the folder but its keys
            name = held.enter_context(only_server(folder))
            place = f"{name}@{socket.gethostname()}:{(folder / SERVER_LOCK).stat().st_ino}"
        held.enter_context(only_user(url, make=True))
        runner = held.enter_context(asyncio.Runner(loop_factory=_new_loop))
        runner.run(serve(configuration, SystemClock(), place))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
