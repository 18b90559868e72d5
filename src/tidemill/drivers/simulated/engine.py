"""The simulated engine itself: what it does with a request, with what goes wrong on the way.

It is apart from the driver because it outlives it: a server that dies leaves its engine as it was,
and several servers see the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tidemill.drivers.contract import DriverError, Node, NoRoom, Refused, Unreachable, Workload
from tidemill.drivers.simulated.dials import Call, Dials
from tidemill.drivers.simulated.journal import RUNNING
from tidemill.drivers.simulated.objects import Made, Objects, ended
from tidemill.drivers.simulated.space import Clash, Space, Violation
from tidemill.model.observation import InstanceId, Phase, Seen

PULL_STEPS = 5  # how often a pull tells how far it is


@dataclass(slots=True)
class Delivery:
    """A request on its way to the engine, and what came of it.

    ``heard`` says whether somebody waits for the answer.
    """

    call: Call
    id: InstanceId
    dials: Dials
    workload: Workload | None = None
    heard: bool = True
    done: bool = False
    error: DriverError | None = None
    has_stopped: bool = True


class Engine(Objects):
    """Everything behind the simulated drivers of one deployment."""

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        now: Callable[[], float] | None = None,
        cpu_overcommit: float = 1.0,
        keep_journal: bool = True,
    ) -> None:
        super().__init__(nodes, now=now, cpu_overcommit=cpu_overcommit, keep_journal=keep_journal)
        self._on_their_way: list[Delivery] = []

    def send(self, delivery: Delivery, after: float) -> None:
        """Have ``delivery`` arrive ``after`` seconds from here."""
        self.schedule(self.at + after, partial(self.deliver, delivery))
        self._on_their_way = [one for one in self._on_their_way if not one.done] + [delivery]

    def forget_requests(self) -> None:
        """What is on its way arrives nowhere."""
        for delivery in self._on_their_way:
            delivery.done, delivery.error = True, Unreachable("the engine went down")
        self._on_their_way = []

    def deliver(self, delivery: Delivery) -> None:
        """Do what is asked, once; what it raised is kept for whoever waits."""
        if delivery.done:
            return
        delivery.done = True
        try:
            self._reach(delivery)
            if delivery.workload is not None:
                self._run(delivery.workload, delivery)
            elif delivery.call == "ensure_stopped":
                self._stop(delivery.id, delivery.dials)
                made = self.made.get(delivery.id)
                delivery.has_stopped = made is None or made.seen.phase is Phase.EXITED
            else:
                self._remove(delivery.id, delivery.dials)
        except DriverError as error:
            delivery.error = error

    def _reach(self, delivery: Delivery) -> None:
        made, workload = self.made.get(delivery.id), delivery.workload
        name = made.node if made is not None else workload.node if workload is not None else ""
        if name in self.spaces and self.spaces[name].lost:
            raise Unreachable(f"{name} does not answer")

    def _run(self, workload: Workload, delivery: Delivery) -> None:
        dials = delivery.dials
        if dials.refuses:
            raise Refused(dials.refuses)
        made = self.made.get(workload.id)
        if made is not None and workload.revision < made.workload.revision:
            newer = made.workload
            workload = replace(
                workload,
                revision=newer.revision,
                authorized_keys=newer.authorized_keys,
                notices=newer.notices,
            )
        if made is None or made.seen.start < workload.start:
            if dials.no_room:
                raise NoRoom(dials.no_room)
            self._begin(made, workload, delivery)
        elif made.seen.start == workload.start:
            uninvited = made.uninvited and not delivery.heard
            is_news = (made.workload, made.uninvited) != (workload, uninvited)
            made.workload, made.uninvited = workload, uninvited
            if is_news:
                self.keep("object", workload.id)
            if not dials.half and _waits_to_be_asked(made):
                self._bring_up(made, dials, pulls=made.seen.phase is Phase.PULLING)

    def _begin(self, made: Made | None, workload: Workload, delivery: Delivery) -> None:
        """The first step of ``workload.start``, from nothing or from an older start."""
        dials = delivery.dials
        if made is not None and made.seen.phase in RUNNING and (dials.stop_seconds or dials.half):
            self._end(made, dials.stop_seconds)
            return  # once it has ended it is asked again
        node = self._find_room(made, workload, heard=delivery.heard)
        created = Seen(workload.start, Phase.CREATED)
        pulls = made is None or made.seen.phase is Phase.PULLING
        if made is None:
            made = self.made[workload.id] = Made(workload, created)
        elif made.seen.phase in RUNNING:
            self.end(made, exit_code=0)
        made.workload, made.node, made.uninvited = workload, node, not delivery.heard
        made.starts.append(workload.start)
        if node:
            self.spaces[node].take(workload)
        made.seen, made.ahead = created, ()
        if dials.half:
            self.show(made, created)
        else:
            self._bring_up(made, dials, pulls=pulls)

    def _bring_up(self, made: Made, dials: Dials, *, pulls: bool) -> None:
        """From an object that is there to a running process, at once or in the time it takes."""
        start = made.seen.start
        if pulls and dials.pull_fails:
            self.show(made, Seen(start, Phase.PULLING, reason="BackOff", message=dials.pull_fails))
            return
        ahead: list[tuple[float, Seen]] = []
        pulled = dials.pull_seconds if pulls else 0.0
        if pulled:
            for step in range(PULL_STEPS):
                percent = 100 * step // PULL_STEPS
                ahead.append((pulled * step / PULL_STEPS, Seen(start, Phase.PULLING, percent=percent)))
        if dials.never or dials.start_seconds:
            ahead.append((pulled, Seen(start, Phase.STARTED)))
        if not dials.never:
            init = 0 if made.workload.init_script else None
            ahead.append((pulled + dials.start_seconds, Seen(start, Phase.REACHABLE, init_exit=init)))
        self.foresee(made, *ahead)

    def _find_room(self, made: Made | None, workload: Workload, *, heard: bool) -> str:
        """The node that takes it; "" in an engine that has none. Raises NoRoom, Refused."""
        if not self.spaces:
            return ""
        name = made.node if made is not None else workload.node
        if not name:
            return self._any_node(workload, heard=heard)
        if name not in self.spaces:
            raise NoRoom(f"there is no machine {name}")
        self._check(self.spaces[name], workload, heard=heard)
        return name

    def _any_node(self, workload: Workload, *, heard: bool) -> str:
        """As an engine that places by itself: the first node that has room."""
        there = [space for space in self.spaces.values() if not space.lost]
        for space in there:
            if space.clash(workload) is None and space.unknown_device(workload) is None:
                return space.node.name
        if not there:
            raise NoRoom("no machine answers")
        self._check(there[0], workload, heard=heard)
        raise NoRoom("no machine has room")

    def _check(self, space: Space, workload: Workload, *, heard: bool) -> None:
        unknown = space.unknown_device(workload)
        if unknown is not None:
            raise Refused(f"{space.node.name} has no device {unknown}")
        clash = space.clash(workload)
        if clash is None:
            return
        if heard and clash.what != "disk" and not self._is_excused(space, clash):
            self.violations.append(Violation(self.at, space.node.name, workload.id, clash))
            self.keep("violation", str(len(self.violations)))
        raise NoRoom(clash.message, node_port=space.taken_port(workload) if clash.what == "port" else None)

    def _is_excused(self, space: Space, clash: Clash) -> bool:
        """Whether what came without being asked for has a part in it."""
        holders = space.running if clash.holder is None else [clash.holder]
        return any(self.made[id].uninvited for id in holders if id in self.made)

    def _stop(self, id: InstanceId, dials: Dials) -> None:
        made = self.made.get(id)
        if dials.refuses_ends:
            raise Refused(dials.refuses_ends)
        if made is None or dials.half or made.seen.phase is Phase.EXITED:
            return
        if made.seen.phase is Phase.PULLING:
            self.drop(id)
        else:
            self._end(made, dials.stop_seconds)

    def _remove(self, id: InstanceId, dials: Dials) -> None:
        made = self.made.get(id)
        if dials.refuses_ends:
            raise Refused(dials.refuses_ends)
        if made is not None and not dials.half:
            self.drop(id)
        elif made is not None and made.seen.phase in RUNNING:
            self.end(made, exit_code=0)

    def _end(self, made: Made, seconds: float) -> None:
        """Have it end after ``seconds``, if it is not ending already."""
        if not seconds or made.seen.phase not in RUNNING:
            self.end(made, exit_code=0)
        elif not any(seen.phase is Phase.EXITED for _, seen in made.ahead):
            self.foresee(made, (seconds, ended(made.seen, 0)))


def _waits_to_be_asked(made: Made) -> bool:
    """Half made, or its pull failed: it goes on when asked again."""
    return not made.ahead and made.seen.phase in {Phase.CREATED, Phase.PULLING}
