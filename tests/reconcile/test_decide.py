"""The pure decision: what is done for every state, whatever the engine shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stock import CPU_TYPE, IMAGE, NODE, REGION, START

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, State, Wanted, move
from tidemill.model.observation import Phase, Seen
from tidemill.model.offer import ChargeMode
from tidemill.reconcile.decide import Plan, decide, owes_nothing, restart_pause
from tidemill.settings import Settings
from tidemill.store.fleet import Standing

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
    failures=0,
    revision=0,
    applied_revision=0,
    progress=None,
    init_exit=None,
    started_at=None,
)

rows = st.builds(
    lambda state, start, revision, applied, failures, pause, script, restored: replace(
        INSTANCE,
        state=state,
        start=start,
        revision=revision + applied,
        applied_revision=applied,
        failures=failures,
        not_before=None if pause is None else START + timedelta(seconds=pause),
        init_script=script,
        restored_from=START - timedelta(hours=1) if restored else None,
    ),
    st.sampled_from(sorted(State)),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 12),
    st.none() | st.integers(-10, 600),
    st.sampled_from(["", "true"]),
    st.booleans(),
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


def come_to_rest(instance: Instance, seen: Seen | None) -> tuple[Instance, Plan]:
    """The instance after everything that happened was recorded, and what is to be done then."""
    now = START + timedelta(seconds=10)
    for _ in range(6):
        plan = decide(instance, seen, now, SETTINGS)
        if plan.happened is None:
            return instance, plan
        cell = move(instance.state, plan.happened.event)
        assert cell is not None
        instance = replace(
            instance,
            state=cell.to,
            start=plan.happened.start or instance.start + cell.new_start,
            state_since=now,
            reason=plan.happened.reason,
            not_before=plan.happened.not_before,
            restored_from=None,
        )
    pytest.fail("never comes to rest")


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
    come_to_rest(instance, seen)


def standing_of(instance: Instance) -> Standing:
    """As the database tells it of a row that is not due."""
    rests = instance.restored_from is None and instance.applied_revision >= instance.revision
    return Standing(instance.id, instance.state, instance.start, instance.init_exit, rests)


@pytest.mark.parametrize("state", State)
def test_what_a_starting_server_leaves_alone_has_nothing_done_to_it(state: State) -> None:
    for start, phase, shown, known, restored, keys in product(
        (1, 2, 3), Phase, (None, 0), (None, 0), (None, START), (0, 1)
    ):
        instance = replace(
            INSTANCE, state=state, start=2, init_exit=known, restored_from=restored, revision=keys
        )
        seen = Seen(start, phase, init_exit=shown)
        if owes_nothing(standing_of(instance), seen):
            plan = decide(instance, seen, START, SETTINGS)
            assert (plan.happened, plan.learned, plan.call) == (None, {}, None), (instance, seen)


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (State.RUNNING, Seen(3, Phase.REACHABLE)),
        (State.STOPPED, Seen(3, Phase.EXITED, exit_code=0)),
        (State.STOPPED, Seen(2, Phase.EXITED, exit_code=0)),
    ],
)
def test_what_rests_as_the_engine_shows_it_is_left_alone(state: State, seen: Seen) -> None:
    assert owes_nothing(standing_of(replace(INSTANCE, state=state, start=3)), seen)


@given(rows, st.integers(1, 3), st.sampled_from([Phase.EXITED, Phase.REACHABLE, Phase.STARTED]))
def test_what_is_seen_of_an_older_start_is_no_news_of_this_one(
    instance: Instance, older: int, phase: Phase
) -> None:
    if STATES[instance.state].wanted is not Wanted.RUNNING:
        return
    instance = replace(instance, start=older + 1, restored_from=None)
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


def test_what_is_to_be_stopped_and_is_not_listed_is_stopped_once_the_driver_says_so() -> None:
    plan = decide(replace(INSTANCE, state=State.STOPPING), None, START, SETTINGS)
    assert (plan.happened, plan.call, plan.then) == (None, Wanted.STOPPED, Event.ABSENT)
    made = decide(replace(INSTANCE, state=State.STOPPING), Seen(1, Phase.CREATED), START, SETTINGS)
    assert (made.happened, made.call, made.then) == (None, Wanted.STOPPED, Event.EXITED)
    exited = decide(replace(INSTANCE, state=State.STOPPING), Seen(1, Phase.EXITED), START, SETTINGS)
    assert exited.happened is not None
    assert exited.happened.event is Event.EXITED


@pytest.mark.parametrize("state", [State.STARTING_FAILED, State.INITIALIZATION_FAILED])
def test_what_failed_is_stopped_before_its_devices_are_free(state: State) -> None:
    failed = replace(INSTANCE, state=state)
    running = decide(failed, Seen(1, Phase.STARTED), START, SETTINGS)
    assert (running.call, running.then) == (Wanted.STOPPED, None)
    assert running.look_again is not None
    stopped = decide(failed, Seen(1, Phase.EXITED), START, SETTINGS)
    assert (stopped.call, stopped.then, stopped.look_again) == (Wanted.STOPPED, Event.EXITED, None)
    assert decide(failed, None, START, SETTINGS).then is Event.ABSENT


RESTORED = replace(INSTANCE, restored_from=START - timedelta(hours=1))
RUNNING_STATES = [state for state, row in STATES.items() if row.wanted is Wanted.RUNNING]
RESTING_STATES = [state for state, row in STATES.items() if row.wanted is Wanted.STOPPED]
RUNS = [Phase.PULLING, Phase.STARTED, Phase.REACHABLE]
RESTS = [Phase.EXITED, Phase.CREATED]


@pytest.mark.parametrize("state", RUNNING_STATES)
@pytest.mark.parametrize("seen", [None, *(Seen(start, phase) for phase in RESTS for start in (1, 2, 3))])
def test_after_a_restore_nothing_is_started_that_does_not_run(state: State, seen: Seen | None) -> None:
    """Its user may have ended it since, and would pay for what they do not know of."""
    plan = decide(replace(RESTORED, state=state, start=2), seen, START, SETTINGS)
    assert plan.happened is not None
    assert plan.happened.event is Event.LOST
    assert "backup of 2026-03-01 11:00:00 UTC" in plan.happened.message
    assert plan.happened.start == (None if seen is None else max(2, seen.start))


@pytest.mark.parametrize("state", RUNNING_STATES)
@pytest.mark.parametrize("phase", RUNS)
@pytest.mark.parametrize("restored", [True, False])
def test_a_later_start_than_the_row_knows_is_adopted(state: State, phase: Phase, restored: bool) -> None:
    row = replace(RESTORED if restored else INSTANCE, state=state)
    plan = decide(row, Seen(3, phase), START, SETTINGS)
    assert plan.happened is not None
    assert (plan.happened.event, plan.happened.start) == (Event.ADOPTED, 3)


@pytest.mark.parametrize("state", RESTING_STATES)
def test_what_was_started_since_the_backup_is_not_stopped(state: State) -> None:
    plan = decide(replace(RESTORED, state=state), Seen(2, Phase.REACHABLE), START, SETTINGS)
    assert plan.happened is not None
    assert (plan.happened.event, plan.happened.start) == (Event.ADOPTED, 2)


@pytest.mark.parametrize("state", RESTING_STATES)
def test_without_a_restore_what_should_not_run_is_stopped_whatever_its_start(state: State) -> None:
    """Its user asked for the stop after the restore, before it was first looked at."""
    plan = decide(replace(INSTANCE, state=state), Seen(2, Phase.REACHABLE), START, SETTINGS)
    assert plan.happened is None
    assert plan.call is Wanted.STOPPED
    assert plan.learned["start"] == 2, "the next start has to be a later one"


def test_a_restored_instance_that_runs_as_the_backup_says_is_left_alone() -> None:
    row = replace(RESTORED, state=State.RUNNING)
    plan = decide(row, Seen(1, Phase.REACHABLE), START, SETTINGS)
    assert (plan.happened, plan.call, plan.learned) == (None, None, {"restored_from": None})


def test_a_restored_instance_whose_terminate_was_asked_for_is_removed_whatever_its_start() -> None:
    plan = decide(replace(RESTORED, state=State.TERMINATING), Seen(5, Phase.REACHABLE), START, SETTINGS)
    assert (plan.happened, plan.call) == (None, Wanted.ABSENT)


def test_a_stopped_instance_that_is_gone_says_so_once() -> None:
    plan = decide(replace(RESTORED, state=State.STOPPED), None, START, SETTINGS)
    assert plan.learned["reason"] == "LostInRestore"
    assert "empty system disk" in str(plan.learned["message"])
    assert decide(replace(INSTANCE, state=State.STOPPED), None, START, SETTINGS).learned == {}


@given(rows, views)
def test_what_is_ahead_of_its_row_is_caught_up_with(instance: Instance, seen: Seen | None) -> None:
    """Else the next start would bear a number that the engine has had."""
    if seen is None or seen.start <= instance.start or STATES[instance.state].wanted is Wanted.ABSENT:
        return
    instance, plan = come_to_rest(instance, seen)
    assert plan.learned.get("start", instance.start) in {seen.start, seen.start + 1}
