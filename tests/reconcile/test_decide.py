"""The pure decision: what is done for every state, whatever the engine shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stock import CPU_TYPE, IMAGE, NODE, REGION, START

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, State, Wanted, move
from tidemill.model.observation import Phase, Seen
from tidemill.model.offer import ChargeMode
from tidemill.reconcile.decide import decide, restart_pause
from tidemill.settings import Settings

SETTINGS = Settings()

INSTANCE = Instance(
    id="notebook-1",
    user_id="u",
    name="n",
    hostname="n",
    region_id=REGION.id,
    node_id=NODE.id,
    type_id=CPU_TYPE.id,
    type_name=CPU_TYPE.name,
    image_id=IMAGE.id,
    image_name=IMAGE.name,
    image_reference=IMAGE.reference,
    cpu_milli=1000,
    memory_mb=1024,
    shm_mb=64,
    pids=100,
    gpu_name="",
    gpu_num=0,
    charge_mode=ChargeMode.PER_HOUR,
    duration=1,
    price_micro=0,
    is_spot=False,
    data_disk_gb=0,
    enable_common_data=False,
    enable_docker=False,
    docker_storage_gb=0,
    init_script="",
    env={},
    ssh_key_ids=None,
    host_key=bytes(32),
    created_at=START,
    state=State.INITIALIZING,
    state_since=START,
    reason="",
    message="",
    start=1,
    version=1,
    due_at=START,
    not_before=None,
    lease_until=None,
    failures=0,
    revision=0,
    applied_revision=0,
    progress=None,
    init_exit=None,
    started_at=None,
)

rows = st.builds(
    lambda state, start, revision, applied, failures, pause, script: replace(
        INSTANCE,
        state=state,
        start=start,
        revision=revision + applied,
        applied_revision=applied,
        failures=failures,
        not_before=None if pause is None else START + timedelta(seconds=pause),
        init_script=script,
    ),
    st.sampled_from(sorted(State)),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 12),
    st.none() | st.integers(-10, 600),
    st.sampled_from(["", "true"]),
)
views = st.none() | st.builds(
    Seen,
    start=st.integers(1, 4),
    phase=st.sampled_from(sorted(Phase)),
    percent=st.none() | st.integers(0, 100),
    reason=st.sampled_from(["", "BackOff", "OOMKilled"]),
    message=st.sampled_from(["", "no such image"]),
    exit_code=st.none() | st.integers(0, 255),
    init_exit=st.none() | st.integers(-1, 255),
)


@given(rows, views, st.integers(-7200, 7200))
def test_a_plan_is_always_one_that_can_be_carried_out(
    instance: Instance, seen: Seen | None, later: int
) -> None:
    now = START + timedelta(seconds=later)
    plan = decide(instance, seen, now, SETTINGS)
    if plan.happened is not None:
        assert move(instance.state, plan.happened.event) is not None
        assert plan.call is None
        return
    wanted = STATES[instance.state].wanted
    if plan.call is not None:
        assert plan.call is wanted
    if STATES[instance.state].deadline is not None:
        assert plan.look_again is not None, "a passing state is never forgotten"
    if instance.state is State.RELEASED:
        assert plan.call is None


@given(rows, views)
def test_deciding_anew_after_what_happened_comes_to_an_end(instance: Instance, seen: Seen | None) -> None:
    now = START + timedelta(seconds=10)
    for _ in range(6):
        plan = decide(instance, seen, now, SETTINGS)
        if plan.happened is None:
            return
        cell = move(instance.state, plan.happened.event)
        assert cell is not None
        instance = replace(
            instance,
            state=cell.to,
            start=instance.start + cell.new_start,
            state_since=now,
            reason=plan.happened.reason,
            not_before=plan.happened.not_before,
        )
    pytest.fail("never comes to rest")


@given(rows, st.integers(1, 3), st.sampled_from([Phase.EXITED, Phase.REACHABLE, Phase.STARTED]))
def test_what_is_seen_of_an_older_start_is_no_news_of_this_one(
    instance: Instance, older: int, phase: Phase
) -> None:
    if STATES[instance.state].wanted is not Wanted.RUNNING:
        return
    instance = replace(instance, start=older + 1)
    plan = decide(instance, Seen(older, phase), START, SETTINGS)
    assert plan.happened is None
    waiting = instance.not_before is not None and START < instance.not_before <= START + timedelta(
        seconds=SETTINGS.restart_pause_most
    )
    assert plan.call is (None if waiting else Wanted.RUNNING)


@given(rows, views)
def test_nothing_seen_releases_an_instance_before_the_driver_was_asked(
    instance: Instance, seen: Seen | None
) -> None:
    instance = replace(instance, state=State.TERMINATING)
    plan = decide(instance, seen, START, SETTINGS)
    assert plan.happened is None
    assert plan.call is Wanted.ABSENT
    assert plan.then is (Event.ABSENT if seen is None else None)


def test_an_instance_that_died_waits_longer_each_time_and_says_so() -> None:
    running = replace(INSTANCE, state=State.RUNNING, failures=2)
    plan = decide(running, Seen(1, Phase.EXITED, exit_code=137, reason="OOMKilled"), START, SETTINGS)
    assert plan.happened is not None
    assert plan.happened.event is Event.EXITED
    assert plan.happened.reason == "OOMKilled"
    assert plan.happened.message == "The main process ended with exit code 137; it is started again in 4 s"
    assert plan.happened.failures == 3
    assert plan.happened.not_before == START + timedelta(seconds=4)
    pauses = [restart_pause(number, SETTINGS) for number in range(1, 40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == SETTINGS.restart_pause_most


def test_after_a_quiet_while_the_pauses_begin_anew() -> None:
    running = replace(INSTANCE, state=State.RUNNING, failures=7)
    plan = decide(running, Seen(1, Phase.EXITED, exit_code=1), START + timedelta(seconds=601), SETTINGS)
    assert plan.happened is not None
    assert plan.happened.failures == 1


@pytest.mark.parametrize(
    ("state", "seen", "says"),
    [
        (
            State.PULLING_IMAGE,
            Seen(1, Phase.PULLING, reason="BackOff", message="no such host"),
            "The image tidemill/debian:12 could not be fetched within 3600 s: no such host",
        ),
        (
            State.STARTING,
            Seen(1, Phase.STARTED),
            "The instance was started, but its ssh server did not answer within 300 s",
        ),
        (State.INITIALIZING, None, "The instance did not come up within 300 s"),
        (
            State.STOPPING,
            Seen(1, Phase.STARTED),
            "The machine has not confirmed the stop within 120 s; it is still being tried, and not billed",
        ),
    ],
)
def test_an_overdue_state_ends_with_a_reason_that_a_user_understands(
    state: State, seen: Seen | None, says: str
) -> None:
    plan = decide(replace(INSTANCE, state=state), seen, START + timedelta(hours=2), SETTINGS)
    assert plan.happened is not None
    assert plan.happened.event is Event.OVERDUE
    assert plan.happened.message == says


def test_a_stop_that_is_overdue_says_so_once_and_goes_on_trying() -> None:
    stopping = replace(INSTANCE, state=State.STOPPING, reason="Overdue")
    plan = decide(stopping, Seen(1, Phase.REACHABLE), START + timedelta(hours=2), SETTINGS)
    assert plan.happened is None
    assert plan.call is Wanted.STOPPED


def test_new_keys_are_brought_to_a_running_instance_and_nothing_else_is_done() -> None:
    running = replace(INSTANCE, state=State.RUNNING, revision=2, applied_revision=1)
    assert decide(running, Seen(1, Phase.REACHABLE), START, SETTINGS).call is Wanted.RUNNING
    settled = replace(running, applied_revision=2)
    plan = decide(settled, Seen(1, Phase.REACHABLE), START, SETTINGS)
    assert (plan.call, plan.look_again) == (None, None)


@pytest.mark.parametrize("state", [State.STARTING_FAILED, State.INITIALIZATION_FAILED])
def test_what_failed_is_stopped_before_its_devices_are_free(state: State) -> None:
    failed = replace(INSTANCE, state=state)
    running = decide(failed, Seen(1, Phase.STARTED), START, SETTINGS)
    assert (running.call, running.then) == (Wanted.STOPPED, None)
    assert running.look_again is not None
    stopped = decide(failed, Seen(1, Phase.EXITED), START, SETTINGS)
    assert (stopped.call, stopped.then, stopped.look_again) == (Wanted.STOPPED, Event.EXITED, None)
    assert decide(failed, None, START, SETTINGS).then is Event.ABSENT
