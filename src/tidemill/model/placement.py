"""Where a workload goes, decided purely from what each node has left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """What a node has left. ``devices`` counts the free ones of the model that was asked for."""

    node_id: str
    cpu_milli: int
    memory_mb: int
    devices: int


@dataclass(frozen=True, slots=True)
class Need:
    """What one instance takes."""

    cpu_milli: int
    memory_mb: int
    devices: int


def fits(room: Room, need: Need) -> int:
    """How many times ``need`` goes into ``room``."""
    counts = [
        have // want
        for have, want in (
            (room.cpu_milli, need.cpu_milli),
            (room.memory_mb, need.memory_mb),
            (room.devices, need.devices),
        )
        if want > 0
    ]
    return max(0, min(counts)) if counts else 0


def choose(rooms: Iterable[Room], need: Need) -> Room | None:
    """The node that is left fullest: fewest free devices, then least memory, then least CPU.

    Packing tightly keeps whole nodes free for the large types. None when nothing fits.
    """
    possible = [room for room in rooms if fits(room, need) > 0]
    return min(possible, key=lambda r: (r.devices, r.memory_mb, r.cpu_milli, r.node_id), default=None)
