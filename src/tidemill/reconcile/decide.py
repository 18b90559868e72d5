"""What to do about one instance, decided purely from its row, what was seen, and the time.

The loop claims an instance, looks at the engine, asks :func:`decide`, and carries the plan out:
first the events and notes (each a guarded transaction), then the driver call, then the events
that follow from the call. Nothing here waits, writes or asks anybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tidemill.model.instance import Instance
from tidemill.model.lifecycle import STATES, Event, Keeps, State, Wanted, move
from tidemill.model.observation import Phase, Seen
from tidemill.settings import Settings
from tidemill.store.fleet import Standing
from tidemill.store.instances import APART

NOT_RUNNING = frozenset({Phase.EXITED, Phase.CREATED})


@dataclass(frozen=True, slots=True)
class Happened:
    """An event to record, with the reason and message it is recorded with."""

    event: Event
    reason: str = ""
    message: str = ""
    not_before: datetime | None = None
    failures: int | None = None
    start: int | None = None  # the start that the engine is in, when the row did not know it
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        happened: the event to record first, if any; the rest of the plan is then decided anew.
        learned: columns to note (progress, reason, message, init_exit, ...), no change of state.
        call: what to ask the driver for, if anything.
        then: the event to record after the call succeeded.
        look_again: when to look at it again; None when at rest.
    """

    happened: Happened | None = None
    learned: dict[str, object] = field(default_factory=dict[str, object])
    call: Wanted | None = None
    then: Event | None = None
    look_again: datetime | None = None


def decide(instance: Instance, seen: Seen | None, now: datetime, settings: Settings) -> Plan:
    """The next step for ``instance``; ``seen`` is None when it was looked for and is not there."""
    happened = _what_happened(instance, seen, now, settings)
    if happened is not None:
        return Plan(happened=happened, look_again=now)
    learned = _what_was_learned(instance, seen)
    if instance.state_since > now + APART and STATES[instance.state].deadline is not None:
        learned["state_since"] = now  # the clock was set back: the deadline counts from here
    wanted = STATES[instance.state].wanted
    if instance.state is State.RELEASED:
        return Plan()
    if wanted is Wanted.ABSENT:
        gone = Event.ABSENT if seen is None else None
        # Most engines announce that it is gone; one that takes its time is asked four times a beat.
        again = now + timedelta(seconds=settings.beat / 4)
        return Plan(learned=learned, call=Wanted.ABSENT, then=gone, look_again=again)
    again = _look_again(instance, seen, now, settings)
    if wanted is Wanted.STOPPED:
        return _keep_stopped(instance, seen, learned, again)
    if instance.not_before is not None and _is_pausing(instance.not_before, now, settings):
        return Plan(learned=learned, look_again=min(instance.not_before, again or instance.not_before))
    return Plan(learned=learned, call=Wanted.RUNNING if _is_owed(instance, seen) else None, look_again=again)


def is_as_wanted(standing: Standing, seen: Seen | None) -> bool:
    """Whether the engine shows what is wanted of an instance: running means in the start that it is in."""
    wanted = STATES[standing.state].wanted
    if wanted is Wanted.RUNNING:
        return seen is not None and seen.phase is Phase.REACHABLE and seen.start == standing.start
    if wanted is Wanted.STOPPED:
        return seen is None or seen.phase in NOT_RUNNING
    return False


def owes_nothing(standing: Standing, seen: Seen) -> bool:
    """Whether :func:`decide` would have nothing to do about an instance that rests, and shows like this."""
    row = STATES[standing.state]
    if row.deadline is not None or row.keeps is Keeps.UNTIL_SEEN_STOPPED:
        return False
    if not standing.rests or not is_as_wanted(standing, seen):
        return False
    if seen.start != standing.start:
        return row.wanted is Wanted.STOPPED and seen.start < standing.start
    return seen.init_exit is None or standing.init_exit is not None


def _is_pausing(until: datetime, now: datetime, settings: Settings) -> bool:
    """A pause longer than any can be is from before the clock was set back, and over."""
    return now < until <= now + timedelta(seconds=settings.restart_pause_most)


def _keep_stopped(
    instance: Instance, seen: Seen | None, learned: dict[str, object], again: datetime | None
) -> Plan:
    if seen is not None and seen.phase not in NOT_RUNNING:
        return Plan(learned=learned, call=Wanted.STOPPED, look_again=again)
    gone = Event.ABSENT if seen is None else Event.EXITED
    if move(instance.state, gone) is None:
        return Plan(learned=learned, look_again=again)
    # By the listing it does not run: once the driver says so too, what it holds is free again. A listing
    # may leave out what is on a machine that does not answer; a call for it is not answered either. And
    # what is made and not started may be on its way, by a call that was given up.
    return Plan(learned=learned, call=Wanted.STOPPED, then=gone, look_again=again)


def _is_owed(instance: Instance, seen: Seen | None) -> bool:
    """Whether the driver has to be asked to run it (again), or to take new keys or notices."""
    if seen is None or seen.start < instance.start:
        return True
    if seen.phase in {Phase.PULLING, Phase.CREATED}:
        return True
    return seen.phase is not Phase.EXITED and instance.applied_revision < instance.revision


def _what_happened(
    instance: Instance, seen: Seen | None, now: datetime, settings: Settings
) -> Happened | None:
    unforeseen = _what_a_restore_shows(instance, seen)
    if unforeseen is not None:
        return unforeseen
    event = _event_of(instance, seen)
    if event is not None:
        cell = move(instance.state, event)
        if cell is not None and (cell.to is not instance.state or cell.new_start):
            return _with_reason(instance, event, seen, now, settings)
    deadline = STATES[instance.state].deadline
    if deadline is None or instance.reason == "Overdue":
        return None
    lasted = (now - instance.state_since).total_seconds()
    allowed: float = getattr(settings, deadline)
    if lasted < allowed:
        return None
    return Happened(Event.OVERDUE, "Overdue", _overdue_message(instance, seen, allowed))


def _what_a_restore_shows(instance: Instance, seen: Seen | None) -> Happened | None:
    """What the first look at a row from a backup shows of what its user did since.

    A start is written down before it is asked for, so a later one in the engine is one that a
    backup did not know: what runs goes on as it is. What does not run is not started by itself:
    its user may have ended it, and would pay for what they do not know of.
    """
    wanted = STATES[instance.state].wanted
    runs = seen is not None and seen.phase not in NOT_RUNNING
    is_restored = instance.restored_from is not None
    if wanted is not Wanted.ABSENT and seen is not None and runs and seen.start > instance.start:
        if wanted is Wanted.RUNNING or is_restored:
            message = (
                f"{_since_when(instance)}The machine runs start {seen.start} of this instance, later than "
                f"start {instance.start}, which was the last that the server knew; it goes on as it is"
            )
            return Happened(Event.ADOPTED, "Adopted", message, start=seen.start)
        return None
    if wanted is not Wanted.RUNNING or runs or not is_restored:
        return None
    message = (
        f"{_since_when(instance)}{_NOT_THERE}"
        if seen is None
        else f"{_since_when(instance)}This instance was found not running. It is not started by itself: "
        "start it to go on with its disks, or terminate it"
    )
    ahead = None if seen is None else max(seen.start, instance.start)
    return Happened(Event.LOST, "LostInRestore", message, start=ahead)


_NOT_THERE = (
    "The machine does not have this instance any more. It is not made anew by itself: "
    "start it to have that done, with an empty system disk, or terminate it"
)


def _since_when(instance: Instance) -> str:
    if instance.restored_from is None:
        return ""
    return f"The server was restored from a backup of {instance.restored_from:%Y-%m-%d %H:%M:%S} UTC. "


def _event_of(instance: Instance, seen: Seen | None) -> Event | None:
    """The lifecycle's word for what was seen; None when it says nothing about this start."""
    wanted = STATES[instance.state].wanted
    if seen is None:
        # What is to be stopped and not there is so once the driver says it too: see _keep_stopped.
        return Event.ABSENT if wanted is Wanted.RUNNING else None
    if wanted is not Wanted.RUNNING:
        return Event.EXITED if seen.phase is Phase.EXITED else None
    if seen.start != instance.start:
        return None
    return {
        Phase.PULLING: Event.PULLING,
        Phase.STARTED: Event.PLACED,
        Phase.REACHABLE: Event.REACHABLE,
        Phase.EXITED: Event.EXITED,
    }.get(seen.phase)


def _with_reason(
    instance: Instance, event: Event, seen: Seen | None, now: datetime, settings: Settings
) -> Happened:
    if STATES[instance.state].wanted is not Wanted.RUNNING or event not in {Event.EXITED, Event.ABSENT}:
        return Happened(event)
    if event is Event.ABSENT:
        return Happened(
            event,
            "Disappeared",
            "The machine no longer had this instance; it is being made anew. What was on its data disk "
            "is kept, what was on its system disk is lost.",
        )
    quiet = instance.state is State.RUNNING and (now - instance.state_since) >= timedelta(
        seconds=settings.restart_quiet
    )
    failures = 1 if quiet else instance.failures + 1
    pause = restart_pause(failures, settings)
    return Happened(
        event,
        (seen.reason if seen is not None else "") or "Exited",
        _exit_message(seen, pause),
        not_before=now + timedelta(seconds=pause),
        failures=failures,
        ended_at=seen.ended_at if seen is not None else None,
    )


def restart_pause(failures: int, settings: Settings) -> float:
    """Seconds to wait before the next start: doubling from one setting up to another."""
    doubled: float = settings.restart_pause * 2 ** min(failures - 1, 30)
    return min(doubled, settings.restart_pause_most)


def _exit_message(seen: Seen | None, pause: float) -> str:
    code = seen.exit_code if seen is not None else None
    why = f"The main process ended with exit code {code}" if code is not None else "The main process ended"
    if seen is not None and seen.message:
        why = f"{why} ({seen.message})"
    return f"{why}; it is started again in {pause:g} s"


def _overdue_message(instance: Instance, seen: Seen | None, allowed: float) -> str:
    lasted = f"within {allowed:g} s"
    if instance.state is State.STOPPING:
        return f"The machine has not confirmed the stop {lasted}; it is still being tried, and not billed"
    if instance.state is State.TERMINATING:
        return f"The machine has not confirmed the removal {lasted}; it is still being tried, and not billed"
    said = (seen.message if seen is not None else "") or instance.message
    detail = f": {said}" if said else ""
    if instance.state is State.PULLING_IMAGE:
        return f"The image {instance.image_reference} could not be fetched {lasted}{detail}"
    if seen is not None and seen.phase is Phase.STARTED:
        return f"The instance was started, but its ssh server did not answer {lasted}{detail}"
    return f"The instance did not come up {lasted}{detail}"


def _what_was_learned(instance: Instance, seen: Seen | None) -> dict[str, object]:
    learned = _what_a_restore_taught(instance, seen)
    if seen is None or seen.start != instance.start:
        return learned
    if seen.phase is Phase.PULLING and seen.percent != instance.progress:
        learned["progress"] = seen.percent
    if instance.state is State.PULLING_IMAGE and (seen.reason, seen.message) != (
        instance.reason,
        instance.message,
    ):
        learned["reason"], learned["message"] = seen.reason, seen.message
    if seen.init_exit is not None and instance.init_exit is None:
        learned["init_exit"] = seen.init_exit
    return learned


def _what_a_restore_taught(instance: Instance, seen: Seen | None) -> dict[str, object]:
    learned: dict[str, object] = {}
    if instance.restored_from is not None:
        learned["restored_from"] = None  # it was compared with the engine: by now
        if seen is None and instance.state in {State.STOPPED, State.ARCHIVED}:
            learned["reason"], learned["message"] = "LostInRestore", _since_when(instance) + _NOT_THERE
    if seen is not None and seen.start > instance.start:
        learned["start"] = seen.start  # the next start has to be a later one
    return learned


def _look_again(instance: Instance, seen: Seen | None, now: datetime, settings: Settings) -> datetime | None:
    beat = timedelta(seconds=settings.beat)
    if STATES[instance.state].deadline is not None:
        return now + beat
    if STATES[instance.state].wanted is Wanted.STOPPED and seen is not None and seen.phase not in NOT_RUNNING:
        return now + beat
    if instance.state is State.RUNNING and instance.init_script and instance.init_exit is None:
        # Its end is not announced by the engine: look often at first, then ever less.
        lasted = now - instance.state_since
        return now + min(max(lasted / 10, beat / 2), timedelta(seconds=30))
    if instance.applied_revision < instance.revision and STATES[instance.state].wanted is Wanted.RUNNING:
        return now + beat
    return None
