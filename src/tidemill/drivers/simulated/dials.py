"""What goes wrong with a simulated engine: one dial for each kind of trouble.

Every dial works by itself and together with any other. A driver has :attr:`SimulatedDriver.dials`,
which hold for every call until they are turned; a function given as ``dial`` draws others for each
call (docs/drivers.md has them as a table).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tidemill.model.observation import InstanceId

Call = Literal["nodes", "observe", "logs", "ensure_running", "ensure_stopped", "ensure_absent"]


@dataclass(slots=True)
class Dials:
    """How the engine takes a call. Times are in seconds; a message is "" for no such trouble.

    Attributes:
        slow_seconds: the request is that long on its way before anything is done; it arrives even
            when its caller has given up meanwhile.
        slow_after: the work is done, its answer comes that much later.
        unreachable: nothing is done, and the call says with this message that there was no answer.
        loses_answer: the work is done, and the call says that there was no answer.
        half: the call gets half way (made and not started, stopped and not removed, the older start
            ended and the next not begun, a stop not begun) and says that there was no answer.
        twice: the work is done, and that much later done once more, whatever happened meanwhile.
        refuses: a start is refused with this message.
        refuses_ends: a stop and a removal are refused with this message.
        no_room: a new start finds no room, with this message.
        never: a start is accepted and never becomes reachable.
        start_seconds: how long a start takes before it is reachable.
        stop_seconds: how long a process takes to end after it was asked to.
        pull_seconds: how long the image of an instance that is not there yet takes to be fetched.
        pull_fails: the image is not fetched: back-off with this message until it is asked for again.
        hides: a listing leaves these instances out as if they were not there; True for all of them.
        shows_old: a listing is that old.
    """

    slow_seconds: float = 0.0
    slow_after: float = 0.0
    unreachable: str = ""
    loses_answer: bool = False
    half: bool = False
    twice: float = 0.0
    refuses: str = ""
    refuses_ends: str = ""
    no_room: str = ""
    never: bool = False
    start_seconds: float = 0.0
    stop_seconds: float = 0.0
    pull_seconds: float = 0.0
    pull_fails: str = ""
    hides: frozenset[InstanceId] | bool = False
    shows_old: float = 0.0


DialFor = Callable[[Call, InstanceId | None], Dials]
