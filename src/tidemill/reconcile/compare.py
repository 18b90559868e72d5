"""Every instance of a region beside what its engine shows: which of them have to be looked at.

A server that starts knows of no listing before, so everything counts as changed: with a hundred thousand
instances that run as they should, taking each of them, a few at a time, would keep it from the few that
need it. What agrees with its row is left alone. It is one read, and it is for a thread: it takes long
enough for requests to wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from tidemill.model.observation import InstanceId, Phase, Seen
from tidemill.reconcile.decide import is_as_wanted, owes_nothing
from tidemill.store import fleet


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of it.

    Attributes:
        there: every instance that is not Released.
        missing: of these, the ones that the listing did not show as wanted.
        agreed: what was shown otherwise than before, of instances that owe nothing all the same.
        to_look_at: what is not as wanted, was shown otherwise, or is owed something, whenever: a clock that
            was set back puts due times far away.
        unreadable: of ``there``, what is in a state that this version does not know, with that word: it is
            not looked at.
    """

    there: set[InstanceId]
    missing: set[InstanceId]
    agreed: dict[InstanceId, Seen]
    to_look_at: set[InstanceId]
    unreadable: dict[InstanceId, str]


def compare(
    connection: Connection, region_id: str, seen: Mapping[InstanceId, Seen], last: Mapping[InstanceId, Seen]
) -> Compared:
    """Compare a listing with the one before, and with the rows, which are read after it was made."""
    standings, unreadable = fleet.standings(connection, region_id)
    found = Compared(set(), set(), {}, differing(seen, last), unreadable)
    for id in unreadable:
        shown = seen.get(id)
        found.there.add(id)
        found.to_look_at.discard(id)
        if shown is None or shown.phase is not Phase.REACHABLE:
            found.missing.add(id)
        if shown is not None:
            found.agreed[id] = shown
    for standing in standings:
        id, shown = standing.id, seen.get(standing.id)
        found.there.add(id)
        if not is_as_wanted(standing, shown):
            found.missing.add(id)
            found.to_look_at.add(id)
        elif not standing.rests:
            found.to_look_at.add(id)
        elif shown is not None and id in found.to_look_at and owes_nothing(standing, shown):
            found.to_look_at.remove(id)
            found.agreed[id] = shown
    found.to_look_at.update(fleet.released_and_due(connection, region_id))
    return found


def differing(seen: Mapping[InstanceId, Seen], last: Mapping[InstanceId, Seen]) -> set[InstanceId]:
    """Ids that one listing shows otherwise than the other; most are the very same and cost nothing."""
    changed = {id for id, now in seen.items() if now is not (before := last.get(id)) and now != before}
    return changed | {id for id in last if id not in seen}
