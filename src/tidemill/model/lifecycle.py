"""The life of an instance as data: states, events, and the table of moves.

Everything that can happen to an instance is a row or a cell here. The reconciler, the actions,
the store and the documentation (docs/lifecycle.md is generated from this file) look things up;
none of them decides on a state by itself.

The state names are the wire's own words (HPC-AI Cloud's instance API); ``Terminating`` is ours
and shows on the wire as ``Stopping``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where an instance is in its life."""

    INITIALIZING = "Initializing"
    PULLING_IMAGE = "PullingImage"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    STARTING_FAILED = "StartingFailed"
    INITIALIZATION_FAILED = "InitializationFailed"
    ARCHIVED = "Archived"
    TERMINATING = "Terminating"
    RELEASED = "Released"


class Event(StrEnum):
    """What can happen: a user asked, the driver saw, or time and money ran."""

    # asked by a user
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    TERMINATE = "terminate"
    # seen by a driver
    PULLING = "pulling"
    PLACED = "placed"  # the engine has it and started it; not yet reachable
    REACHABLE = "running"  # running, and its ssh server answers
    EXITED = "exited"
    ABSENT = "absent"
    NO_ROOM = "noRoom"
    REFUSED = "refused"
    ADOPTED = "adopted"  # running in a start later than the row's: the row came from a backup
    LOST = "lost"  # not running when it was looked for after a restore
    # done by time or money
    OVERDUE = "overdue"
    UNPAID = "unpaid"
    PAID = "paid"
    EXPIRED = "expired"
    RECLAIMED = "reclaimed"


USER_EVENTS = frozenset({Event.START, Event.STOP, Event.RESTART, Event.TERMINATE})
SEEN_EVENTS = frozenset(
    {
        Event.PULLING,
        Event.PLACED,
        Event.REACHABLE,
        Event.EXITED,
        Event.ABSENT,
        Event.NO_ROOM,
        Event.REFUSED,
        Event.ADOPTED,
        Event.LOST,
    }
)
TIMED_EVENTS = frozenset({Event.OVERDUE, Event.UNPAID, Event.PAID, Event.EXPIRED, Event.RECLAIMED})


class Wanted(StrEnum):
    """What the loop has to bring about in the engine."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"


class Keeps(StrEnum):
    """Whether a state keeps the devices, CPU and memory that were reserved for the instance."""

    YES = "yes"
    UNTIL_SEEN_STOPPED = "until seen stopped"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Row:
    """One state: the work it owes, what it keeps, whether it is billed, and its deadline.

    ``stores`` says whether the data disk is billed in it, once the instance has run.
    ``deadline`` names the setting (seconds) after which the state is overdue, or is None for a
    state that may last for ever.
    """

    wanted: Wanted
    keeps: Keeps
    billed: bool
    deadline: str | None
    meaning: str
    stores: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """Where a cell leads; ``new_start`` begins another start of the same instance."""

    to: State
    new_start: bool = False


S, E, W, K = State, Event, Wanted, Keeps

STATES: dict[State, Row] = {
    S.INITIALIZING: Row(W.RUNNING, K.YES, False, "initializing_deadline", "accepted, being prepared"),
    S.PULLING_IMAGE: Row(W.RUNNING, K.YES, False, "pulling_deadline", "its image is being fetched"),
    S.STARTING: Row(W.RUNNING, K.YES, False, "starting_deadline", "started, not yet reachable by ssh"),
    S.RUNNING: Row(W.RUNNING, K.YES, True, None, "reachable by ssh"),
    S.RESTARTING: Row(W.RUNNING, K.YES, False, "restarting_deadline", "stopping and starting again"),
    S.STOPPING: Row(W.STOPPED, K.YES, False, "stopping_deadline", "being stopped; disks are kept"),
    S.STOPPED: Row(W.STOPPED, K.NO, False, None, "stopped; disks are kept"),
    S.STARTING_FAILED: Row(
        W.STOPPED, K.UNTIL_SEEN_STOPPED, False, None, "could not be started; disks are kept"
    ),
    S.INITIALIZATION_FAILED: Row(
        W.STOPPED, K.UNTIL_SEEN_STOPPED, False, None, "could not be set up; never ran"
    ),
    S.ARCHIVED: Row(
        W.STOPPED, K.NO, False, None, "stopped and out of money; data kept for a while", stores=False
    ),
    S.TERMINATING: Row(W.ABSENT, K.YES, False, "terminating_deadline", "being removed with its disks", False),
    S.RELEASED: Row(W.ABSENT, K.NO, False, None, "gone", stores=False),
}

# A blank is "no such move". A cell that leads to its own state without a new start says that
# the thing asked for holds already (a user's event) or that only the reason is news.
MOVES: dict[State, dict[Event, Move]] = {
    S.INITIALIZING: {
        E.START: Move(S.INITIALIZING),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.PULLING: Move(S.PULLING_IMAGE),
        E.PLACED: Move(S.STARTING),
        E.REACHABLE: Move(S.RUNNING),
        E.EXITED: Move(S.INITIALIZING, new_start=True),
        E.NO_ROOM: Move(S.INITIALIZATION_FAILED),
        E.REFUSED: Move(S.INITIALIZATION_FAILED),
        E.OVERDUE: Move(S.INITIALIZATION_FAILED),
        E.UNPAID: Move(S.STOPPING),
        E.EXPIRED: Move(S.STOPPING),
        E.RECLAIMED: Move(S.STOPPING),
        E.ADOPTED: Move(S.STARTING),
        E.LOST: Move(S.STOPPED),
    },
    S.PULLING_IMAGE: {
        E.START: Move(S.PULLING_IMAGE),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.PULLING: Move(S.PULLING_IMAGE),
        E.PLACED: Move(S.STARTING),
        E.REACHABLE: Move(S.RUNNING),
        E.EXITED: Move(S.INITIALIZING, new_start=True),
        E.NO_ROOM: Move(S.INITIALIZATION_FAILED),
        E.REFUSED: Move(S.INITIALIZATION_FAILED),
        E.OVERDUE: Move(S.INITIALIZATION_FAILED),
        E.UNPAID: Move(S.STOPPING),
        E.EXPIRED: Move(S.STOPPING),
        E.RECLAIMED: Move(S.STOPPING),
        E.ADOPTED: Move(S.STARTING),
        E.LOST: Move(S.STOPPED),
    },
    S.STARTING: {
        E.START: Move(S.STARTING),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.PULLING: Move(S.PULLING_IMAGE),
        E.REACHABLE: Move(S.RUNNING),
        E.EXITED: Move(S.STARTING, new_start=True),
        E.NO_ROOM: Move(S.STARTING_FAILED),
        E.REFUSED: Move(S.STARTING_FAILED),
        E.OVERDUE: Move(S.STARTING_FAILED),
        E.UNPAID: Move(S.STOPPING),
        E.EXPIRED: Move(S.STOPPING),
        E.RECLAIMED: Move(S.STOPPING),
        E.ADOPTED: Move(S.STARTING),
        E.LOST: Move(S.STOPPED),
    },
    S.RUNNING: {
        E.START: Move(S.RUNNING),
        E.STOP: Move(S.STOPPING),
        E.RESTART: Move(S.RESTARTING, new_start=True),
        E.TERMINATE: Move(S.TERMINATING),
        E.EXITED: Move(S.RESTARTING, new_start=True),
        E.ABSENT: Move(S.RESTARTING, new_start=True),
        E.UNPAID: Move(S.STOPPING),
        E.EXPIRED: Move(S.STOPPING),
        E.RECLAIMED: Move(S.STOPPING),
        E.ADOPTED: Move(S.STARTING),
        E.LOST: Move(S.STOPPED),
    },
    S.RESTARTING: {
        E.START: Move(S.RESTARTING),
        E.RESTART: Move(S.RESTARTING),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.REACHABLE: Move(S.RUNNING),
        E.EXITED: Move(S.RESTARTING, new_start=True),
        E.NO_ROOM: Move(S.STARTING_FAILED),
        E.REFUSED: Move(S.STARTING_FAILED),
        E.OVERDUE: Move(S.STARTING_FAILED),
        E.UNPAID: Move(S.STOPPING),
        E.EXPIRED: Move(S.STOPPING),
        E.RECLAIMED: Move(S.STOPPING),
        E.ADOPTED: Move(S.STARTING),
        E.LOST: Move(S.STOPPED),
    },
    S.STOPPING: {
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.EXITED: Move(S.STOPPED),
        E.ABSENT: Move(S.STOPPED),
        E.OVERDUE: Move(S.STOPPING),  # never counted as done: it says so and goes on trying
        E.ADOPTED: Move(S.STARTING),
    },
    S.STOPPED: {
        E.START: Move(S.STARTING, new_start=True),
        E.STOP: Move(S.STOPPED),
        E.TERMINATE: Move(S.TERMINATING),
        E.UNPAID: Move(S.ARCHIVED),
        E.EXPIRED: Move(S.STOPPED),  # its term is over: it keeps its devices no longer
        E.ADOPTED: Move(S.STARTING),
    },
    S.STARTING_FAILED: {
        E.START: Move(S.STARTING, new_start=True),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.EXITED: Move(S.STARTING_FAILED),
        E.ABSENT: Move(S.STARTING_FAILED),
        E.UNPAID: Move(S.STOPPING),  # its disk: archived when it was seen stopped
        E.EXPIRED: Move(S.STARTING_FAILED),
        E.ADOPTED: Move(S.STARTING),
    },
    S.INITIALIZATION_FAILED: {
        E.START: Move(S.INITIALIZING, new_start=True),
        E.STOP: Move(S.STOPPING),
        E.TERMINATE: Move(S.TERMINATING),
        E.EXITED: Move(S.INITIALIZATION_FAILED),
        E.ABSENT: Move(S.INITIALIZATION_FAILED),
        E.EXPIRED: Move(S.INITIALIZATION_FAILED),
        E.ADOPTED: Move(S.STARTING),
    },
    S.ARCHIVED: {
        E.START: Move(S.STARTING, new_start=True),
        E.STOP: Move(S.ARCHIVED),
        E.TERMINATE: Move(S.TERMINATING),
        E.PAID: Move(S.STOPPED),
        E.EXPIRED: Move(S.TERMINATING),
        E.ADOPTED: Move(S.STARTING),
    },
    S.TERMINATING: {
        E.TERMINATE: Move(S.TERMINATING),
        E.ABSENT: Move(S.RELEASED),
        E.OVERDUE: Move(S.TERMINATING),  # as for Stopping: it goes on until absence is seen
    },
    S.RELEASED: {},
}


def move(state: State, event: Event) -> Move | None:
    """The cell of the table, or None when ``state`` has no such move."""
    return MOVES[state].get(event)


def wire_status(state: State) -> str:
    """The word that the wire shows for a state."""
    return State.STOPPING.value if state is State.TERMINATING else state.value


def frees(state: State, event: Event) -> bool:
    """Whether ``event``, arriving in ``state`` (after the move), gives the reserved devices back.

    A failed instance may still be held by the engine when it fails; its devices are free for
    the next one only once the engine was seen to have let go of them.
    """
    keeps = STATES[state].keeps
    if keeps is Keeps.UNTIL_SEEN_STOPPED:
        return event in {Event.EXITED, Event.ABSENT}
    return keeps is Keeps.NO
