"""What the doctor does when it is asked to: only what can do no harm, and every step is said."""

from __future__ import annotations

from functools import partial

from tidemill.doctor.engine import describe
from tidemill.doctor.examination import Examination
from tidemill.model.errors import TidemillError
from tidemill.reconcile.orphans import Orphans, Unwanted
from tidemill.store import checkup, facts, findings
from tidemill.store.findings import Finding


async def mend(found: Examination) -> None:
    """Count sums anew, have forgotten work looked at, remove orphans whose grace is over."""
    try:
        await _count_anew(found)
        await _ring(found)
        for id, looked in found.looked.items():
            orphans = found.orphans[id]
            ripe = await orphans.write_down(looked.unwanted)
            await _remove(found, orphans, looked.unwanted, ripe, though_held=False)
    except TidemillError as error:
        found.report.blind = error.message


async def remove_orphans(found: Examination) -> None:
    """Remove every orphan that was found, also held ones; when none is left nothing is held any more."""
    left = False
    try:
        for id, looked in found.looked.items():
            orphans = found.orphans[id]
            await orphans.write_down(looked.unwanted)
            known = await found.database.read_much(partial(findings.open_in, region_id=id))
            left |= await _remove(found, orphans, looked.unwanted, known, though_held=True)
        await _let_go(found, left=left)
    except TidemillError as error:
        found.report.blind = error.message


async def _let_go(found: Examination, *, left: bool) -> None:
    """After a restore, the operator's word counts for all that is there now."""
    if found.books is None or not found.books.restored_at:
        return
    if left or not found.regions or len(found.looked) < len(found.orphans):
        found.report.done.append(
            "orphans are still held: not all of them could be removed, or not every region looked at"
        )
        return
    await found.database.write(lambda c: facts.drop(c, facts.RESTORED_AT))
    found.report.done.append("the restore is closed: servers remove orphans by themselves again")


async def _remove(
    found: Examination, orphans: Orphans, unwanted: Unwanted, some: list[Finding], *, though_held: bool
) -> bool:
    """Remove these; returns whether any is left."""
    left = False
    for finding in some:
        thing = unwanted.things.get((finding.kind, finding.name))
        if thing is None:
            continue
        why = await orphans.remove(finding, thing, though_held=though_held)
        left |= bool(why)
        found.report.done.append(
            f"{describe(thing)} could not be removed: {why}" if why else f"removed {describe(thing)}"
        )
    return left


async def _count_anew(found: Examination) -> None:
    for sums in found.books.sums if found.books is not None else ():
        await found.database.write(partial(checkup.count_anew, node_id=sums.node_id))
        found.report.done.append(f"counted anew what is given of node {sums.node}")


async def _ring(found: Examination) -> None:
    ids = set(found.books.to_ring if found.books is not None else ())
    ids.update(id for looked in found.looked.values() for id in looked.to_ring)
    now = found.clock.now()
    if ids and (rung := await found.database.write(lambda c: checkup.ring(c, ids, now))):
        found.report.done.append(f"{rung} instances are to be looked at, at once when a server runs")
