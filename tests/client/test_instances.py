"""Waiting, watching, pages, and an instance for as long as a block lasts: over a world that is told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client.told import Told, answered
from tidemill.client import errors
from tidemill.client.errors import NoAnswer
from tidemill.client.service import Service

ID = "notebook-1"
MADE = answered(200, {"instanceId": ID})
LOST = NoAnswer("broke off", sent=True)


def row(status: str = "Running", id: str = ID, **runtime: Any) -> dict[str, Any]:
    """What HPC-AI's own service says of an instance: the least that a client is told."""
    return {
        "instanceMetadata": {"instanceId": id, "instanceUsername": "root"},
        "instanceRuntimeInfo": {"status": status, "phase": status, **runtime},
        "instanceSpecInfo": {"regionInfo": {"sshAddress": "gpu.example.org"}, "nodePorts": []},
    }


def seen(*statuses: str) -> list[Any]:
    return [answered(200, row(status)) for status in statuses]


def page(*rows: dict[str, Any], total: int) -> Any:
    return answered(200, {"instances": list(rows), "pager": {"totalEntries": total}})


def test_a_watched_instance_is_told_of_when_it_changes_and_until_it_stays() -> None:
    told = Told(
        seen("Initializing", "Initializing", "Initializing", "Starting", "Starting", "Running", "Stopping")
    )
    statuses = [each.instanceRuntimeInfo.status for each in told.client().instances.watch(ID)]
    assert statuses == ["Initializing", "Starting", "Running"]
    assert len(told.sent) == 6


def test_looks_get_rarer_while_nothing_changes_but_never_rarer_than_two_seconds() -> None:
    told = Told(seen(*["Initializing"] * 60, "Running"))
    list(told.client().instances.watch(ID))
    assert told.pauses == sorted(told.pauses)
    assert (told.pauses[0], told.pauses[-1]) == (0.1, 2.0)


def test_a_server_that_goes_away_meanwhile_does_not_end_the_wait() -> None:
    told = Told([*seen("Initializing"), LOST, LOST, *seen("Running")])
    assert told.client().instances.wait_until_running(ID).instanceRuntimeInfo.status == "Running"


def test_a_launch_that_fails_says_why_and_one_that_takes_too_long_which_it_is() -> None:
    failed = answered(200, row("InitializationFailed", diagnosisMessage="no such image"))
    with pytest.raises(errors.LaunchFailed, match="InitializationFailed and not Running: no such image") as e:
        Told([*seen("Initializing"), failed]).client().instances.wait_until_running(ID)
    assert e.value.instance.instanceMetadata.instanceId == ID
    told = Told(seen(*["Starting"] * 999))
    with pytest.raises(errors.WaitedTooLong, match="still Starting after 30 seconds"):
        told.client().instances.wait_until_running(ID, timeout=30)
    assert 28 <= told.now <= 30


def test_pages_are_read_as_they_are_needed_and_no_row_twice() -> None:
    rows = [row(id=f"notebook-{number}") for number in range(5)]
    # One more was made after the first page was read: its last row slides to the second.
    told = Told([page(*rows[:2], total=5), page(rows[1], rows[2], total=6), page(*rows[3:], total=6)])
    listing = told.client().instances.list(page_size=2)
    assert next(listing).instanceMetadata.instanceId == "notebook-0"
    assert len(told.sent) == 1
    assert [each.instanceMetadata.instanceId for each in listing] == [f"notebook-{n}" for n in range(1, 5)]
    assert [body["pager"]["currentPage"] for body in told.bodies()] == [1, 2, 3]


def test_a_status_that_is_none_is_an_error_of_the_client() -> None:
    told = Told([])
    with pytest.raises(errors.ClientError, match="running"):
        list(told.client().instances.list(status=["running"]))


def test_a_filter_is_sent_only_where_there_is_one() -> None:
    told = Told([page(total=0), page(total=0)])
    client = told.client()
    list(client.instances.list())
    list(client.instances.list(status={"Running"}, name="train"))
    assert "filter" not in told.bodies()[0]
    assert told.bodies()[1]["filter"] == {"status": ["Running"], "name": "train"}


def test_where_there_is_no_call_for_one_instance_it_is_looked_for_in_the_list() -> None:
    other = [row(id=f"notebook-x{number}") for number in range(100)]
    told = Told([page(*other, total=101), page(row("Stopped"), total=101)])
    found = told.client(Service.HPC_AI).instances.get(ID)
    assert found.instanceRuntimeInfo.status == "Stopped"
    assert {request.path for request in told.sent} == {"/api/instance/list"}
    with pytest.raises(errors.NotFound):
        Told([page(total=0)]).client(Service.HPC_AI).instances.get(ID)


def test_a_service_that_does_not_know_dry_runs_is_not_asked_for_one() -> None:
    told = Told([MADE, MADE])
    for ask in (lambda calls: calls.quote({}), lambda calls: calls.quote_start(ID)):
        with pytest.raises(errors.ClientError, match="no price"):
            ask(told.client(Service.HPC_AI).instances)
    assert told.sent == []


def test_what_another_service_says_by_null_is_as_if_left_out() -> None:
    odd = row(diagnosisReason=None, diagnosisMessage=None, startedAt=None)
    odd["instanceSpecInfo"] |= {"nodePorts": None, "billing": None, "unheard": [None]}
    told = Told([page(odd, total=1)])
    (found,) = told.client(Service.HPC_AI).instances.list()
    assert found.instanceRuntimeInfo.diagnosisReason == ""
    assert found.instanceSpecInfo.nodePorts == []


# --- launched ---


def paths(told: Told) -> list[str]:
    return [request.path.removeprefix("/api/instance/") for request in told.sent]


def test_a_block_has_an_instance_that_runs_and_leaves_none() -> None:
    told = Told([MADE, *seen("Starting", "Running"), MADE])
    with told.client().instances.launched({}) as found:
        assert found.instanceRuntimeInfo.status == "Running"
        assert "terminate" not in paths(told)
    assert paths(told) == ["create", ID, ID, "terminate"]


@pytest.mark.parametrize("trouble", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_whatever_ends_the_block_the_instance_is_terminated_and_it_goes_on(trouble: BaseException) -> None:
    told = Told([MADE, *seen("Running"), LOST, MADE])

    def work() -> None:
        with told.client().instances.launched({}):
            raise trouble

    with pytest.raises(type(trouble)) as caught:
        work()
    assert caught.value is trouble
    assert paths(told) == ["create", ID, "terminate", "terminate"], "asked again after a lost answer"


def test_interrupted_while_it_waits_it_is_terminated() -> None:
    told = Told([MADE, *seen("Starting"), KeyboardInterrupt(), MADE])

    def work() -> None:
        with told.client().instances.launched({}):
            raise AssertionError("it never ran")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert paths(told)[-1] == "terminate"


def test_interrupted_in_the_middle_of_the_launch_the_same_key_says_which_one_to_end() -> None:
    told = Told([KeyboardInterrupt(), MADE, MADE])

    def work() -> None:
        with told.client().instances.launched({}):
            raise AssertionError("it never ran")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert paths(told) == ["create", "create", "terminate"]
    assert len({request.headers["Idempotency-Key"] for request in told.sent[:2]}) == 1


def test_a_launch_that_was_refused_leaves_nothing_to_end_and_one_that_failed_is_ended() -> None:
    told = Told([answered(409, {"message": "none left", "error": "outOfStock"})])
    with pytest.raises(errors.OutOfStock), told.client().instances.launched({}):
        pass
    assert paths(told) == ["create"]
    told = Told([MADE, *seen("StartingFailed"), answered(404, {"message": "gone", "error": "x"})])
    with pytest.raises(errors.LaunchFailed), told.client().instances.launched({}):
        pass
    assert paths(told)[-1] == "terminate"


def test_logs_come_in_pieces_and_a_refusal_of_a_stream_is_an_error_like_any() -> None:
    told = Told([[b"one\n", b"two"]])
    assert list(told.client().instances.logs(ID, follow=True, tail=5)) == [b"one\n", b"two"]
    assert dict(told.sent[0].query) == {"follow": "true", "tail": "5"}
    told = Told([answered(404, {"message": "ent: instance not found", "error": "instanceNotFound"})])
    with pytest.raises(errors.NotFound):
        list(told.client().instances.logs(ID))
    told = Told([[b"one\n", LOST]])
    pieces = told.client().instances.logs(ID)
    assert next(pieces) == b"one\n"
    with pytest.raises(NoAnswer):
        next(pieces)


def test_all_events_come_page_by_page() -> None:
    def event(seq: int) -> dict[str, Any]:
        return {
            "seq": seq, "at": "2026-01-01T00:00:00Z", "event": "launch", "from": "Starting", "to": "Running",
            "start": 1, "reason": "", "message": "",
        }  # fmt: skip

    told = Told(
        [
            answered(200, {"events": [event(n) for n in range(1, 1001)]}),
            answered(200, {"events": [event(1007)]}),
        ]
    )
    found = list(told.client().instances.events(ID))
    assert [each.seq for each in found] == [*range(1, 1001), 1007]
    assert (found[0].from_, told.sent[1].query["after"]) == ("Starting", "1000")
