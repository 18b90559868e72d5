"""What the loop counts while it works: moves, troubles, how long launches take, calls of the engine."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.reconcile.house import House, settle
from tests.stock import REGION

from tidemill.metrics import Metrics
from tidemill.model.lifecycle import Event, State
from tidemill.reconcile.loop import Loop


def counted(loop: Loop, name: str) -> dict[tuple[str, ...], float]:
    """Samples of one name by the values of their labels but the region."""
    metrics: Metrics = loop._metrics
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name:
                assert sample.labels.pop("region") == REGION.id
                found[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


async def test_a_life_is_counted_move_by_move(house: House) -> None:
    loop, id = house.loop(), house.launch()
    house.clock.pass_by(3)
    await house.until_state(loop, id, State.RUNNING)
    house.driver.play_exit(id, 137)
    loop._hinted = True
    await house.until_state(loop, id, State.RESTARTING)
    await house.until_state(loop, id, State.RUNNING)
    house.ask(id, Event.TERMINATE)
    await house.until_state(loop, id, State.RELEASED)
    assert counted(loop, "tidemill_instance_moves_total") == {
        ("running", "Running"): 2,
        ("exited", "Restarting"): 1,
        ("absent", "Released"): 1,
    }
    assert counted(loop, "tidemill_instance_failures_total") == {("Exited",): 1}
    assert counted(loop, "tidemill_launch_duration_seconds_count") == {(): 1}
    assert 3 <= counted(loop, "tidemill_launch_duration_seconds_sum")[()] < 10
    calls = counted(loop, "tidemill_driver_call_duration_seconds_count")
    assert calls["ok", "ensure_running"] >= 2
    assert calls["ok", "ensure_absent"] >= 1
    assert calls["ok", "observe"] >= 3
    assert counted(loop, "tidemill_engine_up") == {(): 1}


@pytest.mark.parametrize(
    ("dial", "outcome", "reason"), [("refuses", "refused", "Refused"), ("no_room", "noRoom", "NoRoom")]
)
async def test_what_an_engine_says_no_to_is_counted(
    house: House, dial: str, outcome: str, reason: str
) -> None:
    setattr(house.driver.dials, dial, "words that a tenant could have chosen")
    loop, id = house.loop(), house.launch()
    await house.until_state(loop, id, State.INITIALIZATION_FAILED)
    assert counted(loop, "tidemill_driver_call_duration_seconds_count")[outcome, "ensure_running"] == 1
    assert counted(loop, "tidemill_instance_failures_total") == {(reason,): 1}
    assert b"a tenant could" not in loop._metrics.text()


async def test_an_engine_that_is_away_shows(house: House) -> None:
    loop = house.loop()
    await loop.run_pass()
    house.driver.dials.unreachable = "the engine is down"
    house.clock.pass_by(61)
    await loop.run_pass()
    await settle(loop)
    assert counted(loop, "tidemill_engine_up") == {(): 0}
    house.driver.dials.unreachable = ""
    house.clock.pass_by(61)
    await loop.run_pass()
    assert counted(loop, "tidemill_engine_up") == {(): 1}
