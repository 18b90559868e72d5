"""What the doctor makes of an engine's listing, whatever it shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.doctor.engine import compare, devices, ports
from tidemill.drivers.contract import Port
from tidemill.model.lifecycle import STATES, State, Wanted
from tidemill.model.observation import Phase, Seen
from tidemill.store.checkup import Row

UP = {Phase.STARTED, Phase.REACHABLE}
seen = st.none() | st.builds(Seen, st.integers(1, 3), st.sampled_from(Phase))


@given(
    state=st.sampled_from([s for s in State if s is not State.RELEASED]), start=st.integers(1, 3), there=seen
)
def test_what_is_not_as_wanted_is_found_and_nothing_else(
    state: State, start: int, there: Seen | None
) -> None:
    row = STATES[state]
    found = list(compare([Row("a", state, start)], {} if there is None else {"a": there}))
    assert len(found) <= 1
    assert all(symptom.passing for symptom in found), "the loop may be at it"
    if there is not None and there.start > start:
        assert [symptom.code for symptom in found] == ["laterStart"]
    elif row.deadline is not None:
        assert not found, "on its way"
    elif row.wanted is Wanted.RUNNING:
        right = there is not None and there.start == start and there.phase in UP | {Phase.PULLING}
        assert bool(found) == (not right)
    else:
        assert bool(found) == (there is not None and there.phase in UP)


def test_each_says_what_it_is() -> None:
    rows = [Row(id, State.RUNNING, 2) for id in ("gone", "old", "ended", "well")]
    rows += [Row("awake", State.STOPPED, 1), Row("asleep", State.STOPPED, 1)]
    there = {
        "old": Seen(1, Phase.REACHABLE),
        "ended": Seen(2, Phase.EXITED),
        "well": Seen(2, Phase.STARTED),
        "awake": Seen(1, Phase.REACHABLE),
        "asleep": Seen(1, Phase.EXITED),
        "stranger": Seen(1, Phase.REACHABLE),
    }
    assert {symptom.about: symptom.code for symptom in compare(rows, there)} == {
        "gone": "missing",
        "old": "earlierStart",
        "ended": "endedThoughRunning",
        "awake": "runsThoughStopped",
    }


def test_a_device_that_two_have_is_found_at_once() -> None:
    there = {
        "a": Seen(1, Phase.REACHABLE, devices=("gpu-0",)),
        "b": Seen(1, Phase.REACHABLE, devices=("gpu-0", "gpu-1")),
        "ended": Seen(1, Phase.EXITED, devices=("gpu-0",)),
        "c": Seen(1, Phase.REACHABLE, devices=("gpu-2",)),
    }
    found = list(devices(there, {"gpu-0": "a", "gpu-1": "b", "gpu-2": "somebody else"}))
    assert [(one.code, one.about, one.passing) for one in found] == [
        ("deviceShared", "gpu-0", False),
        ("deviceElsewhere", "gpu-2", True),
    ]


def test_ports_that_are_published_otherwise_than_given() -> None:
    rows = [Row(id, State.RUNNING, 1) for id in ("well", "other", "lacks", "starts")]
    there = {row.instance_id: Seen(1, Phase.REACHABLE) for row in rows} | {
        "starts": Seen(1, Phase.STARTED),
        "stranger": Seen(1, Phase.REACHABLE),
    }
    held = {
        "well": frozenset({(22, 30000), (80, 30001)}),
        "other": frozenset({(22, 30002)}),
        "lacks": frozenset({(22, 30003)}),
        "starts": frozenset({(22, 30004)}),
        "stopped": frozenset({(22, 30005)}),
    }
    published = {
        "well": frozenset({Port(22, 30000), Port(80, 30001)}),
        "other": frozenset({Port(22, 30009)}),
        "lacks": frozenset[Port](),
        "starts": frozenset[Port](),
        "stranger": frozenset({Port(22, 30005)}),
    }
    found = list(ports(rows, there, published, held))
    assert [(one.code, one.about, one.passing) for one in found] == [
        ("portsDiffer", "other", True),
        ("portsDiffer", "lacks", True),
        ("portElsewhere", "node port 30005", True),
    ]
    assert found[0].meaning == "the engine publishes 22 at 30009, and it was given 22 at 30002"
    assert found[2].meaning == "stranger has it in the engine, and it is given to stopped"
    assert list(ports(rows, there, {}, held)) == [], "an engine that cannot be asked"
