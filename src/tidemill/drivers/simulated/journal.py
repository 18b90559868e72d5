"""What really ran when, as the simulated engine knows it: for comparing with what was shown and billed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tidemill.model.observation import Phase

RUNNING = frozenset({Phase.STARTED, Phase.REACHABLE})


@dataclass(frozen=True, slots=True)
class Moment:
    """From ``at`` on, an object was in ``phase`` of ``start``; a phase of None: it was gone."""

    at: float
    phase: Phase | None
    start: int


def spans(moments: Iterable[Moment], phases: Collection[Phase] = RUNNING) -> list[tuple[float, float | None]]:
    """When an object was in one of ``phases``: from and to, None for still; adjoining spans are one."""
    found: list[tuple[float, float | None]] = []
    since: float | None = None
    for moment in moments:
        inside = moment.phase in phases
        if inside and since is None:
            since = moment.at
        elif not inside and since is not None:
            found.append((since, moment.at))
            since = None
    if since is not None:
        found.append((since, None))
    return found
