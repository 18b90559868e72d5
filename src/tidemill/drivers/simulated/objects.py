"""The objects of a simulated engine: how they look, what becomes of them by themselves, and what was.

Nothing runs by itself here. What takes time is written down with the instant it is due, and done in
that order, at those instants, as soon as anybody looks: nobody can tell the difference, and
everything happens the same way every time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from tidemill.drivers.contract import Node, Workload
from tidemill.drivers.hints import Hints
from tidemill.drivers.simulated.journal import RUNNING, Moment
from tidemill.drivers.simulated.space import Space, Violation
from tidemill.model.observation import InstanceId, Phase, Seen

REMEMBERED = 10_000  # changes that an older listing can be told from
RUNS = RUNNING | {Phase.PULLING, Phase.CREATED}  # what holds its share of a node
Kind = Literal["object", "away", "lost", "violation"]
NO_TIME = "a dial that takes time needs a driver that was given `now`"


@dataclass(slots=True)
class Made:
    """One object of this engine, with what is on its disks.

    Attributes:
        starts: the start numbers it has been through.
        node: where it is; "" in an engine without nodes.
        ahead: what becomes of it by itself, with the instants.
        uninvited: it came without being asked for: by a repeated or late request, or back from the dead.
    """

    workload: Workload
    seen: Seen
    starts: list[int] = field(default_factory=list[int])
    node: str = ""
    ahead: tuple[tuple[float, Seen], ...] = ()
    uninvited: bool = False


class Objects:
    """All objects of one engine, on its nodes, in its time.

    Args:
        nodes: the machines; without any, there is room for everything.
        now: seconds from any origin; without it nothing can take time.
        cpu_overcommit: how many times each core may be given out.
        keep_journal: keep what happened to every object, for ever.
    """

    poll: float | None = None  # seconds between looks of those who listen; None: no other process changes it

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        now: Callable[[], float] | None = None,
        cpu_overcommit: float = 1.0,
        keep_journal: bool = True,
    ) -> None:
        self.hints = Hints()
        self.sooner = Hints()  # something is due before all else
        self.made: dict[InstanceId, Made] = {}
        self.away: dict[InstanceId, Made] = {}  # what vanished and may come back
        self.journal: dict[InstanceId, list[Moment]] = {}
        self.violations: list[Violation] = []
        self.spaces = {node.name: Space(node, cpu_overcommit) for node in nodes}
        self.at = 0.0  # the instant at which things happen
        self._now = now
        self._keep_journal = keep_journal
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._listing: dict[InstanceId, Seen] = {}
        self._past: deque[tuple[float, InstanceId, Seen | None]] = deque(maxlen=REMEMBERED)

    @contextmanager
    def turn(self) -> Generator[None]:
        """Everything that looks at the engine or changes it happens inside, at one instant."""
        self.settle()
        yield

    def look(self) -> None:
        """Before anything is read: what is due has happened."""
        self.settle()

    def close(self) -> None:
        """Let go of what the engine is kept in; it goes on."""

    def settle(self) -> None:
        """Do what is due, in order."""
        if self._now is None:
            return
        now = self._now()
        while self._due and self._due[0][0] <= now:
            self.at, _, happen = heapq.heappop(self._due)
            happen()
        self.at = now

    def next_due(self) -> float | None:
        """Seconds until something happens by itself; None for never."""
        return max(0.0, self._due[0][0] - self._now()) if self._due and self._now is not None else None

    def schedule(self, due: float, happen: Callable[[], None]) -> None:
        """Have something happen by itself at the instant ``due``."""
        if self._now is None:
            raise ValueError(NO_TIME)
        self._number += 1
        heapq.heappush(self._due, (due, self._number, happen))
        if self._due[0][1] == self._number:
            self.sooner.ring()

    def nodes(self) -> list[Node]:
        return [space.node for space in self.spaces.values() if not space.lost]

    def listing(self, age: float = 0.0) -> dict[InstanceId, Seen]:
        """What is there to be seen, or was ``age`` seconds ago, as far as that is remembered."""
        found = dict(self._listing)
        if age and self._now is None:
            raise ValueError(NO_TIME)
        for at, id, before in reversed(self._past) if age else ():
            if at <= self.at - age:
                break
            if before is None:
                found.pop(id, None)
            else:
                found[id] = before
        return found

    def put(self, made: Made) -> None:
        """An object is there, as it is; the caller has looked whether there is room."""
        self.made[made.workload.id] = made
        self._settle_in(made)
        self.show(made, made.seen)

    def _settle_in(self, made: Made) -> None:
        """Have it hold of its node what it holds as it is."""
        if made.node and made.seen.phase in RUNS:
            self.spaces[made.node].take(made.workload)
        elif made.node:
            self.spaces[made.node].keep_disk(made.workload)

    def drop(self, id: InstanceId) -> Made:
        """Take an object away with all that it holds."""
        made = self.made.pop(id)
        if made.node:
            self.spaces[made.node].forget(id)
        self._list(id, None)
        self._write_down(id, None, made.seen.start)
        self.keep("object", id)
        return made

    def vanish(self, id: InstanceId) -> None:
        """It is gone, and may come back."""
        self.away[id] = self.drop(id)
        self.keep("away", id)

    def come_back(self, id: InstanceId) -> Made:
        """What vanished, to be :meth:`put` where it was, and to :meth:`go_on`."""
        made = self.away.pop(id)
        self.keep("away", id)
        return made

    def end(self, made: Made, *, exit_code: int, reason: str = "", message: str = "") -> None:
        """Its process ends, here and now."""
        made.ahead = ()
        self.show(made, replace(ended(made.seen, exit_code), reason=reason, message=message))

    def foresee(self, made: Made, *ahead: tuple[float, Seen]) -> None:
        """From here on this becomes of it, whatever was foreseen before: seconds from here, and its looks."""
        made.ahead = tuple((self.at + seconds, seen) for seconds, seen in ahead)
        self.keep("object", made.workload.id)
        self.go_on(made.workload.id)

    def show(self, made: Made, seen: Seen) -> None:
        """The one place where an object changes its looks: listing, journal, shares and hints follow."""
        id = made.workload.id
        made.seen = seen
        if made.node and seen.phase is Phase.EXITED:
            self.spaces[made.node].let_go(id)
        self._list(id, seen)
        self._write_down(id, seen.phase, seen.start)
        self.keep("object", id)

    def lose(self, node: str, *, lost: bool) -> None:
        """A node is out of sight with all that is on it, or back."""
        self.spaces[node].lost = lost
        for id, made in self.made.items():
            if made.node == node:
                self._list(id, made.seen)
        self.keep("lost", node)

    def keep(self, kind: Kind, id: str) -> None:
        """Something of this kind changed; an engine that is kept somewhere writes it there."""

    def go_on(self, id: InstanceId) -> None:
        """Show what is due of what was foreseen, unless it has been taken another way since."""
        made = self.made.get(id)
        while made is not None and made.ahead and made.ahead[0][0] <= self.at:
            (_, seen), made.ahead = made.ahead[0], made.ahead[1:]
            self.show(made, seen)
        if made is not None and made.ahead:
            self.schedule(made.ahead[0][0], partial(self.go_on, id))

    def _list(self, id: InstanceId, seen: Seen | None) -> None:
        made = self.made.get(id)
        self._past.append((self.at, id, self._listing.get(id)))
        if seen is None or (made is not None and made.node and self.spaces[made.node].lost):
            self._listing.pop(id, None)
        else:
            self._listing[id] = _with_devices(seen, made)
        self.hints.ring()

    def _write_down(self, id: InstanceId, phase: Phase | None, start: int) -> None:
        if not self._keep_journal:
            return
        moments = self.journal.setdefault(id, [])
        if not moments or (moments[-1].phase, moments[-1].start) != (phase, start):
            moments.append(Moment(self.at, phase, start))


def _with_devices(seen: Seen, made: Made | None) -> Seen:
    if made is None or seen.phase not in RUNNING or not made.workload.devices:
        return seen
    return replace(seen, devices=tuple(device.id for device in made.workload.devices))


def ended(seen: Seen, exit_code: int) -> Seen:
    """How ``seen`` looks once its process has ended."""
    return Seen(seen.start, Phase.EXITED, exit_code=exit_code, init_exit=seen.init_exit)
