"""The table of states and moves, checked as a whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.model.lifecycle import (
    MOVES,
    SEEN_EVENTS,
    STATES,
    TIMED_EVENTS,
    USER_EVENTS,
    Event,
    Keeps,
    State,
    Wanted,
    frees,
    move,
    wire_status,
)
from tidemill.settings import Settings

WIRE_WORDS = {
    "Initializing",
    "PullingImage",
    "Starting",
    "Running",
    "Restarting",
    "Stopping",
    "Stopped",
    "StartingFailed",
    "InitializationFailed",
    "Archived",
    "Released",
}


def reachable_from(start: State, events: frozenset[Event] = frozenset(Event)) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        for event, cell in MOVES[todo.pop()].items():
            if event in events and cell.to not in found:
                found.add(cell.to)
                todo.append(cell.to)
    return found


def test_every_state_has_a_row_and_a_line_of_moves() -> None:
    assert set(STATES) == set(MOVES) == set(State)


def test_every_event_belongs_to_one_kind_and_is_used() -> None:
    assert set(Event) == USER_EVENTS | SEEN_EVENTS | TIMED_EVENTS
    assert len(USER_EVENTS) + len(SEEN_EVENTS) + len(TIMED_EVENTS) == len(Event)
    assert {event for cells in MOVES.values() for event in cells} == set(Event)


def test_the_wire_shows_exactly_the_contract_s_words() -> None:
    assert {wire_status(state) for state in State} == WIRE_WORDS
    assert wire_status(State.TERMINATING) == "Stopping"


def test_every_state_can_be_reached_from_a_launch() -> None:
    assert reachable_from(State.INITIALIZING) == set(State)


@pytest.mark.parametrize("state", sorted(set(State) - {State.RELEASED}))
def test_a_terminate_works_in_every_state_and_leads_to_released(state: State) -> None:
    cell = move(state, Event.TERMINATE)
    assert cell is not None
    assert cell.to is State.TERMINATING
    assert State.RELEASED in reachable_from(state, frozenset({Event.TERMINATE, Event.ABSENT}))


def test_only_a_terminate_or_an_announced_end_of_retention_destroys_data() -> None:
    destroying = {
        (state, event)
        for state, cells in MOVES.items()
        for event, cell in cells.items()
        if STATES[cell.to].wanted is Wanted.ABSENT and STATES[state].wanted is not Wanted.ABSENT
    }
    assert {event for _, event in destroying} == {Event.TERMINATE, Event.EXPIRED}
    assert {state for state, event in destroying if event is Event.EXPIRED} == {State.ARCHIVED}


def test_nothing_leaves_released_and_terminating_only_ends() -> None:
    assert MOVES[State.RELEASED] == {}
    assert reachable_from(State.TERMINATING) == {State.TERMINATING, State.RELEASED}


def test_every_passing_state_has_a_deadline_that_is_a_setting_and_a_move_for_it() -> None:
    settings = Settings()
    passing = [state for state, row in STATES.items() if row.deadline is not None]
    assert set(passing) == {
        State.INITIALIZING,
        State.PULLING_IMAGE,
        State.STARTING,
        State.RESTARTING,
        State.STOPPING,
        State.TERMINATING,
    }
    for state in passing:
        assert getattr(settings, STATES[state].deadline or "") > 0
        assert move(state, Event.OVERDUE) is not None


def test_only_running_is_billed_and_it_holds_its_devices() -> None:
    assert [state for state, row in STATES.items() if row.billed] == [State.RUNNING]
    for state, row in STATES.items():
        if row.wanted is Wanted.RUNNING:
            assert row.keeps is Keeps.YES, state


def test_what_fails_keeps_its_devices_until_the_engine_was_seen_to_let_go() -> None:
    for failed in (State.STARTING_FAILED, State.INITIALIZATION_FAILED):
        assert not frees(failed, Event.OVERDUE)
        assert not frees(failed, Event.REFUSED)
        assert frees(failed, Event.EXITED)
        assert frees(failed, Event.ABSENT)
    for state, cells in MOVES.items():
        for event, cell in cells.items():
            if STATES[cell.to].keeps is Keeps.NO and STATES[state].keeps is Keeps.YES:
                assert event in {Event.EXITED, Event.ABSENT, Event.LOST}, (state, event)


def test_asking_again_for_what_is_wanted_already_is_success() -> None:
    for state, row in STATES.items():
        if state is State.RELEASED:
            continue
        if row.wanted is Wanted.RUNNING:
            assert MOVES[state][Event.START].to is state
        if row.wanted is Wanted.STOPPED:
            assert move(state, Event.STOP) is not None


@given(st.lists(st.sampled_from(sorted(Event)), max_size=40))
def test_any_sequence_of_events_ends_in_a_state_of_the_table(events: list[Event]) -> None:
    state, start = State.INITIALIZING, 1
    for event in events:
        cell = move(state, event)
        if cell is not None:
            state, start = cell.to, start + cell.new_start
        assert state in STATES
    assert 1 <= start <= len(events) + 1


@given(st.sampled_from(sorted(State)), st.sampled_from(sorted(SEEN_EVENTS)))
def test_seeing_never_destroys_or_stops_what_a_user_wants_running(state: State, event: Event) -> None:
    cell = move(state, event)
    if cell is None or STATES[state].wanted is not Wanted.RUNNING:
        return
    after = STATES[cell.to]
    if event is Event.LOST:  # after a restore, what does not run may be what its user had ended
        assert cell.to is State.STOPPED
        return
    assert after.wanted is Wanted.RUNNING or cell.to in {State.STARTING_FAILED, State.INITIALIZATION_FAILED}
