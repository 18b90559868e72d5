"""What a driver saw of an instance, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

InstanceId = str


class Phase(StrEnum):
    """How far the engine has come with one start of an instance."""

    PULLING = "pulling"  # no engine object yet: its image is on the way
    CREATED = "created"  # an engine object that was never started
    STARTED = "started"  # running, ssh server not seen to answer (yet)
    REACHABLE = "reachable"  # running, and its ssh server answers
    EXITED = "exited"  # an engine object whose main process ended


@dataclass(frozen=True, slots=True)
class Seen:
    """One instance as the engine shows it.

    An instance that ``observe()`` does not mention was looked for and is not there.

    Attributes:
        start: the start number that this observation belongs to (1 for the first).
        phase: how far that start has come.
        percent: progress of the image pull, 0-100, where known.
        reason: a short word for what is wrong ("BackOff", "OOMKilled"), or "".
        message: the engine's own words about it, fit for the user's eyes, or "".
        exit_code: of the main process, when exited.
        ended_at: when that was, by the engine's clock, where it says so.
        init_exit: how the init script ended: its exit code, ``-1`` when it was interrupted;
            None while it has not ended or when there is none.
        devices: ids of the accelerators that it has while it runs.
    """

    start: int
    phase: Phase
    percent: int | None = None
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    ended_at: datetime | None = None
    init_exit: int | None = None
    devices: tuple[str, ...] = ()
