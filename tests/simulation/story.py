"""What happens in one simulation, as a list that can be read, drawn from a seed, and cut short.

A story says how the world is set up and what is done to it when: by users, to the engine, to the
database, to the servers. Everything else follows from it and from the seed, so a story that fails can
be told shorter by leaving lines out for as long as it still fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from random import Random

from tests.simulation.chance import stream

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Act:
    """At ``at`` seconds, ``what`` is done: a method of the world's by that name, with ``given``."""

    at: float
    what: str
    given: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        words = " ".join(f"{name}={value}" for name, value in self.given)
        return f"{self.at:8.3f}  {self.what} {words}".rstrip()


@dataclass(frozen=True, slots=True)
class Setup:
    """The world before anything happens.

    Attributes:
        roles: of the servers that share the database and the engine, such as "all" or "api+loop".
        users: tenants, named user-0, user-1, ...
        nodes, cores, gpus: machines, and what each has.
        ports: node ports that may be given out.
        latency: seconds that a call of database or engine usually takes.
        start, stop, pull: seconds that an instance takes at most to come up, to end, to have its image.
        skew: seconds that the servers' clocks are apart.
        money: for how many seconds of the cheapest instance each user has money, as "40+0"; 0 for plenty.
    """

    roles: str = "all"
    users: int = 2
    nodes: int = 1
    cores: int = 6
    gpus: int = 2
    ports: int = 8
    latency: float = 0.01
    start: float = 1.0
    stop: float = 0.0
    pull: float = 0.0
    skew: float = 0.0
    money: str = "0"

    @property
    def servers(self) -> int:
        return len(self.roles.split("+"))

    @property
    def purses(self) -> tuple[float, ...]:
        return tuple(map(float, self.money.split("+")))


@dataclass(frozen=True, slots=True)
class Story:
    seed: int
    setup: Setup
    acts: tuple[Act, ...]

    def __str__(self) -> str:
        names = Setup.__dataclass_fields__
        setup = " ".join(f"{name}={getattr(self.setup, name)}" for name in names)
        return "\n".join([f"seed {self.seed}", f"setup {setup}", *map(str, self.acts)])

    def has_trouble(self, kinds: Collection[str]) -> bool:
        """Whether engine or database meet one of these troubles."""
        return any(value in kinds for act in self.acts for name, value in act.given if name == "trouble")

    def without(self, gone: Sequence[Act]) -> Story:
        left = set(gone)
        return replace(self, acts=tuple(act for act in self.acts if act not in left))


def read(text: str) -> Story:
    """The story that ``str(story)`` wrote. Raises ValueError."""
    seed, setup, acts = 0, Setup(), list[Act]()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "seed":
            seed = int(words[1])
        elif words[0] == "setup":
            given = dict(map(_pair, words[1:]))
            setup = Setup(**given | {"money": str(given.get("money", "0"))})  # type: ignore[arg-type]
        else:
            acts.append(Act(float(words[0]), words[1], tuple(map(_pair, words[2:]))))
    return Story(seed, setup, tuple(sorted(acts, key=lambda act: act.at)))


def _pair(word: str) -> tuple[str, Value]:
    name, _, value = word.partition("=")
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def draw(seed: int) -> Story:
    """The story of a seed."""
    chance = stream(seed, "story")
    crowded = chance.random() < 0.4
    setup = Setup(
        roles=chance.choice(ROLES),
        users=chance.choice((2, 2, 3)),
        nodes=1 if crowded else chance.choice((1, 1, 2)),
        cores=12 if crowded else chance.choice((3, 6, 12)),
        gpus=chance.choice((1, 2)) if crowded else chance.choice((1, 2, 3)),
        ports=chance.choice((4, 8, 40)),
        latency=chance.choice((0.001, 0.01, 0.05, 0.3)),
        start=chance.choice((0.0, 0.5, 3.0, 8.0)),
        stop=chance.choice((0.0, 0.0, 1.0, 6.0)),
        pull=chance.choice((0.0, 0.0, 0.0, 2.0, 8.0)),
        skew=chance.choice((0.0, 0.0, 0.2, 1.0)),
    )
    acts = _Drawing(chance, setup, crowded=crowded).acts()
    return _with_money(Story(seed, setup, tuple(sorted(acts, key=lambda act: act.at))))


def _with_money(story: Story) -> Story:
    """The same with prices of all kinds, and with users that have little: drawn apart from the rest."""
    chance = stream(story.seed, "money")
    acts: list[Act] = []
    terms: dict[Value, dict[str, Value]] = {}
    for act in story.acts:
        given = dict(act.given)
        if act.what == "launch":
            drawn = terms.setdefault(given["name"], _terms(chance))
            acts.append(replace(act, given=tuple((given | drawn).items())))
        else:
            acts.append(act)
    purses = ["0"] * story.setup.users
    if chance.random() < 0.35:
        poor = chance.randrange(story.setup.users)
        seconds = round(chance.choice((21.0, 21.0, 45.0, 300.0)) * chance.uniform(1.0, 1.4), 3)
        purses[poor] = str(seconds)
        first = min(
            (act.at for act in acts if act.what == "launch" and dict(act.given)["user"] == poor), default=99.0
        )
        if first + seconds < 70.0:  # then it is seen that the money was used up
            acts.append(Act(round(first + seconds + 50.0, 3), "wait"))
        for _ in range(chance.choice((0, 0, 1, 2))):
            paid: dict[str, Value] = {"user": poor, "seconds": round(chance.uniform(1.0, 120.0), 3)}
            acts.append(Act(round(chance.uniform(0.0, 60.0), 3), "pay", tuple(paid.items())))
    setup = replace(story.setup, money="+".join(purses))
    return Story(story.seed, setup, tuple(sorted(acts, key=lambda act: act.at)))


def _terms(chance: Random) -> dict[str, Value]:
    """How a launch is paid, as words of its act."""
    found: dict[str, Value] = {}
    mode = chance.choices(("perHour", "tidePerHour", "perDay"), (6, 3, 1))[0]
    if mode != "perHour":
        found["mode"] = mode
    if chance.random() < 0.3:
        found["disk"] = chance.choice((1, 10))
    if chance.random() < 0.07:
        found["spend"] = round(chance.uniform(1.0, 60.0), 3)
    if chance.random() < 0.05:
        found["limit"] = chance.randint(1, 40)
    return found


ROLES = (
    "all",
    "all",
    "all",
    "all",
    "all+all",
    "all+all",
    "all+all+all",
    "api+loop",
    "api+loop+loop",
    "api+all",
)
USER_VERBS = ("start", "stop", "restart", "terminate")
# Troubles of the engine: how likely each call meets them, and what else they need to be said.
ENGINE_TROUBLES: dict[str, Callable[[Random], dict[str, Value]]] = {
    "unreachable": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "slow": lambda chance: {"p": 0.5, "by": round(chance.choice((0.5, 5.0, 15.0, 40.0)), 1)},
    "late_answer": lambda chance: {"p": 0.5, "by": round(chance.choice((0.5, 5.0, 15.0, 40.0)), 1)},
    "loses_answer": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "half": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "twice": lambda chance: {"p": 0.5, "by": round(chance.choice((0.1, 2.0, 10.0)), 1)},
    "refuses": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "refuses_ends": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "no_room": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "never": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "pulls": lambda chance: {"p": 1.0, "by": round(chance.choice((2.0, 10.0, 30.0)), 1)},
    "pull_fails": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "ends_slowly": lambda chance: {"p": 1.0, "by": round(chance.choice((1.0, 5.0, 25.0)), 1)},
    "hides": lambda chance: {"p": chance.choice((0.3, 1.0))},
    "shows_old": lambda chance: {"p": 0.5, "by": round(chance.choice((0.5, 5.0)), 1)},
}
DATABASE_TROUBLES: dict[str, Callable[[Random], dict[str, Value]]] = {
    "fails": lambda chance: {"p": chance.choice((0.1, 0.5, 1.0))},
    "loses_answer": lambda chance: {"p": chance.choice((0.1, 0.5))},
    "slow": lambda chance: {"p": 0.3, "by": round(chance.choice((0.3, 3.0, 12.0, 30.0)), 1)},
}


class _Drawing:
    """Draws the acts of one story; instances are called i0, i1, ... in the order of their launches."""

    def __init__(self, chance: Random, setup: Setup, *, crowded: bool) -> None:
        self._chance = chance
        self._setup = setup
        self._crowded = crowded  # everybody wants the same few cards
        self._troubles = chance.sample(tuple(ENGINE_TROUBLES), 3)  # few kinds in one story, and often
        if chance.random() < 0.3:  # what is met most
            self._troubles[0] = "unreachable"
        self._weights = [chance.choice((0, 1, 4)) + 0.1 for _ in USER_VERBS]
        self._launched: list[tuple[str, int]] = []
        self._last_at: dict[str, float] = {}  # when something was asked of each
        self._keys: list[tuple[str, int, str, int]] = []

    def acts(self) -> list[Act]:
        chance = self._chance
        length = chance.choice((8.0, 20.0, 40.0))
        found = [self._launch(chance.uniform(0, length / 2)) for _ in range(chance.randint(1, 5))]
        found += [self._user(chance.uniform(0, length)) for _ in range(chance.randint(3, 12))]
        for name, owner in self._launched:
            if chance.random() < 0.3:
                found += self._to_and_fro(name, owner)
        bad = chance.random()
        if bad < 0.12:  # one blow falls, mostly on what has come up
            at = self._last_at[chance.choice(self._launched)[0]]
            return [*found, self._world(at + self._slowest() * chance.uniform(0.5, 2.0))]
        if bad < 0.3:  # nothing goes wrong, and somebody is in a hurry
            return found + [act for one in self._launched for act in self._in_a_hurry(*one)]
        busy = [act.at for act in found]
        for most, draw_one in (
            (chance.choice((0, 1, 2, 3)), self._engine),
            (chance.choice((0, 0, 1, 2)), self._database),
            (chance.choice((0, 0, 1, 2, 3)), self._world),
            (chance.choice((0, 1, 1, 2, 3)), self._server),
        ):
            for _ in range(most):  # mostly when there is something to disturb
                at = chance.choice(busy) - 0.3 * chance.random()
                found.append(draw_one(max(0.0, at) if chance.random() < 0.6 else chance.uniform(0, length)))
        return found

    def _act(self, at: float, what: str, **given: Value) -> Act:
        return Act(round(at, 3), what, tuple(given.items()))

    def _somebody(self) -> int:
        return self._chance.randrange(self._setup.users)

    def _via(self) -> int:
        return self._chance.randrange(self._setup.servers)

    def _launch(self, at: float) -> Act:
        chance = self._chance
        name = f"i{len(self._launched)}"
        user = self._somebody()
        kind = "gpu" if self._crowded else chance.choice(("cpu", "cpu", "gpu", "gpu", "gpu2"))
        given: dict[str, Value] = {"name": name, "user": user, "type": kind, "via": self._via()}
        if chance.random() < 0.3:
            given["ports"] = chance.randint(1, 3)
        if chance.random() < 0.2:
            given["script"] = 1
        if chance.random() < (0.8 if self._crowded else 0.2):
            given["eager"] = 1
        if chance.random() < 0.5:
            given["key"] = f"k{len(self._keys)}"
            self._keys.append((name, user, kind, int(given.get("ports", 0))))
        self._launched.append((name, user))
        self._last_at[name] = at
        return self._act(at, "launch", **given)

    def _user(self, at: float) -> Act:
        chance = self._chance
        drawn = chance.random()
        if drawn < (0.25 if self._crowded else 0.08):
            return self._launch(at)
        drawn = chance.random()
        if drawn < 0.08 and self._keys:  # the same key again: from elsewhere, by somebody else, for another
            name, user, kind, ports = chance.choice(self._keys)
            if chance.random() < 0.2:
                user = self._somebody()
            if chance.random() < 0.2:
                kind = "cpu"
            again: dict[str, Value] = {"name": name, "user": user, "type": kind, "via": self._via()}
            if ports:
                again["ports"] = ports
            key = next(f"k{n}" for n, kept in enumerate(self._keys) if kept[0] == name)
            return self._act(at, "launch", **again, key=key)
        if drawn < 0.14:
            return self._act(
                at, chance.choice(("add_key", "drop_key")), user=self._somebody(), via=self._via()
            )
        if drawn < 0.22:
            return self._act(at, "look", user=self._somebody(), via=self._via())
        name, owner = chance.choice(self._launched)
        verb = chance.choices(USER_VERBS, self._weights)[0]
        user = self._somebody() if chance.random() < 0.1 else owner
        if chance.random() < 0.6:  # close upon what was asked of it before
            at = self._last_at[name] + chance.choice((0.0, 0.05, 0.5, 5.0, 20.0)) * chance.random()
        self._last_at[name] = max(at, self._last_at[name])
        return self._act(at, verb, name=name, user=user, via=self._via())

    def _to_and_fro(self, name: str, owner: int) -> list[Act]:
        """Somebody who stops what they have, and starts it again, some time after it is there."""
        chance, found = self._chance, list[Act]()
        at = self._last_at[name]
        verbs = ["stop", "start", "stop", "start"][: chance.randint(1, 4)]
        if chance.random() < 0.4:
            verbs.append("terminate")
        for verb in verbs:
            at += self._slowest() * chance.uniform(0.5, 1.2)
            at += chance.choice((0.05, 0.5, 3.0)) * chance.random()
            found.append(self._act(at, verb, name=name, user=owner, via=self._via()))
        return found

    def _in_a_hurry(self, name: str, owner: int) -> list[Act]:
        """Somebody who asks for the next thing while the last one is being done."""
        chance, found = self._chance, list[Act]()
        for _ in range(chance.randint(0, 4)):
            at = self._last_at[name] + (self._setup.start + 20 * self._setup.latency) * chance.random()
            self._last_at[name] = at
            found.append(
                self._act(
                    at, chance.choice(("stop", "start", "restart")), name=name, user=owner, via=self._via()
                )
            )
        return found

    def _slowest(self) -> float:
        """Seconds after which what was asked for is mostly there."""
        setup = self._setup
        return setup.start + setup.stop + setup.pull + 20 * setup.latency

    def _engine(self, at: float) -> Act:
        chance = self._chance
        trouble = chance.choice(self._troubles)
        lasts = round(chance.choice((1.0, 5.0, 15.0, 30.0)) * chance.uniform(0.5, 1.0), 3)
        return self._act(at, "engine", trouble=trouble, lasts=lasts, **ENGINE_TROUBLES[trouble](chance))

    def _database(self, at: float) -> Act:
        chance = self._chance
        trouble = chance.choice(tuple(DATABASE_TROUBLES))
        lasts = round(chance.choice((0.5, 5.0, 15.0)) * chance.uniform(0.5, 1.0), 3)
        return self._act(at, "database", trouble=trouble, lasts=lasts, **DATABASE_TROUBLES[trouble](chance))

    def _world(self, at: float) -> Act:
        chance = self._chance
        what = chance.choice(("exits", "exits", "vanishes", "vanishes", "reboot", "node_lost", "stray"))
        if what in {"exits", "vanishes"}:
            given: dict[str, Value] = {"name": chance.choice(self._launched)[0]}
            if what == "vanishes" and chance.random() < 0.4:
                given["returns"] = round(chance.choice((0.1, 3.0, 15.0)) * chance.random(), 3)
            return self._act(at, what, **given)
        if what == "node_lost":
            node, lasts = chance.randrange(self._setup.nodes), round(chance.choice((2.0, 15.0)), 3)
            return self._act(at, what, node=node, lasts=lasts)
        return self._act(at, what)

    def _server(self, at: float) -> Act:
        chance = self._chance
        what = chance.choices(("crash", "ends", "stall", "power", "clock"), (6, 1, 2, 1, 2))[0]
        down = round(chance.choice((0.01, 1.0, 6.0, 20.0)) * chance.uniform(0.5, 1.0), 3)
        if what == "crash":
            return self._act(at, what, server=self._via(), steps=chance.randint(1, 200), down=down)
        if what == "stall":
            return self._act(at, what, server=self._via(), lasts=down)
        if what == "ends":
            return self._act(at, what, server=self._via(), down=down)
        if what == "power":
            return self._act(at, what, down=down)
        by = chance.choice((-3600.0, -40.0, -2.0, 2.0, 40.0, 3600.0))
        return self._act(at, what, server=self._via(), by=by)
