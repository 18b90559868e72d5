"""People who ask the API for things, try again, and look at everything they are shown.

What each of them asked for last is known by the order in which the database took it, not by who heard
an answer: an answer may be lost, what was committed stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

from tests.invariants import Asked
from tests.simulation.servers import NoAnswer, NotConnected, Server
from tests.simulation.stage import IMAGE, REGION, TYPES, prepared
from tests.simulation.store import Shelf
from tidemill.actions.ask import ask
from tidemill.actions.context import Context
from tidemill.actions.instances import get_instance, history, list_instances
from tidemill.actions.launch import launch
from tidemill.actions.sshkeys import create_ssh_key, delete_ssh_key, list_ssh_keys
from tidemill.model.account import Caller
from tidemill.model.errors import Conflict, NotFound, OutOfStock, TidemillError, Unavailable
from tidemill.model.instance import Order
from tidemill.model.lifecycle import Event
from tidemill.model.offer import ChargeMode

T = TypeVar("T")
TRIES = 6
PAUSE = 1.5  # between two tries
EAGER_TRIES = 8  # over about 17 s
EAGER_PAUSE = 0.5
EAGER_GROWTH = 1.4
WISHES: dict[Event, Asked] = {
    Event.START: "running",
    Event.RESTART: "running",
    Event.STOP: "stopped",
    Event.TERMINATE: "gone",
}
PUBLIC_KEYS = tuple(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + letter * 42 + "A key-" + letter for letter in "BCDEFGHI"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """How a launch is paid: charge mode, GB of data disk, maxSpend (micro-units), stopAfterSeconds; or 0."""

    mode: str = "perHour"
    disk: int = 0
    spend: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """One launch as a story has it."""

    name: str
    user: int
    kind: str
    via: int
    key: str
    ports: int
    has_script: bool
    is_eager: bool
    terms: Terms


class Town(Protocol):
    """What the users need of the world."""

    servers: list[Server]
    shelf: Shelf

    def say(self, *words: object) -> None: ...
    def wrong(self, sentence: str) -> None: ...
    def count(self, what: str) -> None: ...


class Users:
    """All of them, with what they know and what they have a right to.

    Attributes:
        asked: what was asked for last of every instance that was ever made.
        names: the instance that a story calls by a name.
    """

    def __init__(self, town: Town, chance: Random) -> None:
        self.asked: dict[str, Asked] = {}
        self.names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._town = town
        self._chance = chance
        self._callers = prepared()[1]

    async def launch(self, wish: Wish) -> None:
        """Have one, by the key if there is one; who is eager tries until there is room."""
        pause = EAGER_PAUSE
        for _ in range(EAGER_TRIES if wish.is_eager else 1):
            try:
                return await self._launch(wish)
            except OutOfStock:
                await asyncio.sleep(pause)
                pause *= EAGER_GROWTH

    async def _launch(self, wish: Wish) -> None:
        caller, key = self._callers[wish.user], wish.key
        order = Order(
            name=wish.name,
            image_id=IMAGE.id,
            type_id=TYPES[wish.kind].id,
            region_id=REGION.id,
            charge_mode=ChargeMode(wish.terms.mode),
            duration=1,
            data_disk_gb=wish.terms.disk,
            max_spend_micro=wish.terms.spend or None,
            stop_after_seconds=wish.terms.limit or None,
            node_ports=tuple(8000 + number for number in range(wish.ports)),
            init_script="true" if wish.has_script else "",
        )
        made: list[str] = []

        def committed() -> None:
            for instance_id in self._town.shelf.instances():
                if instance_id not in self.asked:
                    made.append(instance_id)
                    self._promised(instance_id, wish.name, caller, key)

        def action(context: Context) -> Awaitable[tuple[str]]:
            body = f"{wish.kind} {wish.ports}".encode()
            return _told(launch(context, caller, order, key=key or None, body=body))

        told = await self._ask(wish.via, action, committed, again=bool(key))
        if told is None:
            return
        (answer,) = told
        self._town.say(caller.user.username, "has", answer)
        if answer not in self.asked:
            self._town.wrong(f"a launch was answered with {answer}, which was never written down")
        elif self._owners[answer] != caller.user.id:
            self._town.wrong(f"a launch was answered with another user's {answer}")
        if key and self._by_key.get((caller.user.id, key)) != answer:
            self._town.wrong(f"the key {key} was answered with {answer}")
        if not key and answer not in made:
            self._town.wrong(f"a launch without a key was answered with an old instance {answer}")

    def _promised(self, instance_id: str, name: str, caller: Caller, key: str) -> None:
        self.asked[instance_id] = "running"
        self._owners[instance_id] = caller.user.id
        self.names.setdefault(name, instance_id)
        self._town.say(caller.user.username, "launched", name, instance_id)
        if key and self._by_key.setdefault((caller.user.id, key), instance_id) != instance_id:
            self._town.wrong(f"the key {key} of {caller.user.username} made two instances")

    async def verb(self, event: Event, *, name: str, user: int, via: int) -> None:
        instance_id, caller = self.names.get(name), self._callers[user]
        if instance_id is None:
            return
        own = self._owners[instance_id] == caller.user.id

        def committed() -> None:
            self._town.say(caller.user.username, event.value, name)
            self.asked[instance_id] = WISHES[event]
            if not own:
                self._town.wrong(f"{caller.user.username} could {event.value} another user's {instance_id}")

        def action(context: Context) -> Awaitable[tuple[None]]:
            return _told(ask(context, caller, instance_id, event))

        try:
            done = await self._ask(via, action, committed, again=self._chance.random() < 0.7)
        except OutOfStock:
            return
        if done and not own:
            self._town.wrong(f"{caller.user.username} was told that another user's {instance_id} obeys")

    async def add_key(self, *, user: int, via: int) -> None:
        key = self._chance.choice(PUBLIC_KEYS)
        await self._ask(
            via, lambda context: create_ssh_key(context, self._callers[user], name=None, public_key=key)
        )

    async def drop_key(self, *, user: int, via: int) -> None:
        caller = self._callers[user]
        keys = await self._ask(via, lambda context: list_ssh_keys(context, caller))
        if keys:
            await self._ask(via, lambda context: delete_ssh_key(context, caller, keys[0].id))

    async def look(self, *, user: int, via: int) -> None:
        """At the list of what is theirs, and at everything that there is, by its id."""
        caller = self._callers[user]

        def listing(context: Context) -> Awaitable[Any]:
            return list_instances(
                context, caller, page=1, size=100, status=None, name=None, region=None, include_released=True
            )

        shown = await self._ask(via, listing)
        for view in shown[0] if shown is not None else ():
            if self._owners.get(view.instance.id) != caller.user.id:
                self._town.wrong(f"{caller.user.username} was shown {view.instance.id} in a list")
        for instance_id, owner in list(self._owners.items()):
            if owner == caller.user.id and self._chance.random() < 0.7:
                continue
            view = await self._ask(via, lambda context, id=instance_id: get_instance(context, caller, id))
            told = await self._ask(
                via, lambda context, id=instance_id: history(context, caller, id, after=0, limit=10)
            )
            if owner != caller.user.id and (view is not None or told is not None):
                self._town.wrong(f"{caller.user.username} was shown another user's {instance_id}")

    async def _ask(
        self,
        via: int,
        action: Callable[[Context], Awaitable[T]],
        committed: Callable[[], None] = lambda: None,
        *,
        again: bool = False,
    ) -> T | None:
        """Ask until there is an answer; ``again`` also when it may have been done. None is a no.

        Raises OutOfStock.
        """
        servers = self._town.servers
        for attempt in range(TRIES):
            try:
                return await servers[(via + attempt) % len(servers)].ask(action, committed)
            except NotConnected:
                self._town.count("user: not connected")
            except NoAnswer:
                self._town.count("user: no answer")
                if not again:
                    return None
            except Unavailable as error:
                self._town.count(f"user: {error.code}")
                if not again:
                    return None
            except TidemillError as error:
                self._town.count(f"user: {error.code}")
                self._town.say("answer:", error.code)
                if isinstance(error, OutOfStock):
                    raise
                if not isinstance(error, NotFound | Conflict) and error.code not in EXPECTED:
                    self._town.wrong(f"a user was answered with {error.code}: {error}")
                return None
            except Exception as error:
                self._town.wrong(f"a user was answered with {error!r}")
                return None
            await asyncio.sleep(PAUSE)
        return None


EXPECTED = {"overQuota", "quotaExceeded", "notEnoughMoney", "maxSpendTooSmall"}


async def _told(asked: Awaitable[T]) -> tuple[T]:
    """An answer, whatever it says."""
    return (await asked,)
