"""What engines and registries say is kept as far as it can be, on both databases, and stops nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from tests.stock import REGION, HandClock, Stocked, accept

from tidemill.model.lifecycle import Event, State
from tidemill.settings import Settings
from tidemill.store import findings, instances, nodes
from tidemill.store.nodes import FoundDevice, FoundNode
from tidemill.store.schema import devices
from tidemill.store.schema import nodes as node_rows


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("no such image", "no such image"),
        ("no\0such\0image", "no\ufffdsuch\ufffdimage"),
        ("half of \ud83d it", "half of ? it"),
        ("ganz: \U0001f642", "ganz: \U0001f642"),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_a_message(stocked: Stocked, clock: HandClock, said: str, kept: str) -> None:
    run = stocked.database.run
    launched = run(lambda c: accept(c, Settings(), stocked.alice, stocked.order(), clock.now()))
    run(lambda c: instances.record(c, launched, Event.REFUSED, clock.now(), reason="Refused", message=said))
    found = run(lambda c: instances.get(c, launched.id))
    assert found is not None
    assert (found.state, found.message) == (State.INITIALIZATION_FAILED, kept)
    history = run(lambda c: instances.history(c, launched.id, after=0, limit=10))
    assert history[-1].message == kept
    run(lambda c: instances.note(c, found, message=said + "!"))


@pytest.mark.parametrize("name", ["x" * 1000, "a\0b", "\ud83d"])
def test_a_name(stocked: Stocked, clock: HandClock, name: str) -> None:
    """Labels of containers and names of devices are anybody's."""
    run = stocked.database.run
    assert run(lambda c: findings.begin(c, REGION.id, "instance", name, name, clock.now()))
    assert not run(lambda c: findings.begin(c, REGION.id, "instance", name, name, clock.now()))
    (finding,) = run(lambda c: findings.open_in(c, REGION.id))
    run(lambda c: findings.say(c, finding, f"it is {name}"))
    node = FoundNode("node", name, 1, 1, 1, (FoundDevice(name, name, ("/dev/x",)),))
    for _ in range(2):
        run(lambda c: nodes.register(c, REGION.id, [node]))
    assert len(run(lambda c: c.execute(select(node_rows).where(node_rows.c.id == "node")).all())) == 1
    assert len(run(lambda c: c.execute(select(devices).where(devices.c.node_id == "node")).all())) == 1
