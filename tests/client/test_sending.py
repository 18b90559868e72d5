"""What is sent again, what never is, and what refusals become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.client.told import Told, answered
from tidemill.client import AsyncClient, Client, errors
from tidemill.client.effects import Reply
from tidemill.client.errors import NoAnswer, NotConnected, TimedOut
from tidemill.client.sending import Retries
from tidemill.client.service import Service
from tidemill.client.subject import amount

LOST = NoAnswer("broke off", sent=True)
NEVER_SENT = NotConnected("no connection", sent=False)
BUSY = answered(503, {"message": "later", "error": "unavailable"})
DONE = answered(200, {"instanceId": "notebook-1"})
ORDER: dict[str, Any] = {"name": "x", "anything": [1, None, {"of": "ours"}]}
VERBS = ("start", "stop", "terminate")


@pytest.mark.parametrize("trouble", [LOST, NEVER_SENT, BUSY, TimedOut("late", sent=True)])
def test_a_launch_is_sent_again_under_the_same_key(trouble: Any) -> None:
    told = Told([trouble, trouble, DONE])
    assert told.client().instances.create(ORDER) == "notebook-1"
    keys = {request.headers["Idempotency-Key"] for request in told.sent}
    assert len(told.sent) == 3
    assert len(keys) == 1
    assert told.bodies() == [ORDER] * 3, "the exact body, also what this client does not know"


def test_two_launches_are_two_keys_and_a_given_one_is_used() -> None:
    told = Told([DONE, DONE, DONE])
    client = told.client()
    client.instances.create(ORDER)
    client.instances.create(ORDER)
    client.instances.create(ORDER, idempotency_key="mine")
    first, second, third = (request.headers["Idempotency-Key"] for request in told.sent)
    assert first != second
    assert third == "mine"


def test_a_service_that_knows_no_key_is_never_sent_a_launch_twice() -> None:
    for trouble in (LOST, BUSY):
        told = Told([trouble, DONE])
        with pytest.raises(errors.ClientError):
            told.client(Service.HPC_AI).instances.create(ORDER)
        assert len(told.sent) == 1
        assert "Idempotency-Key" not in told.sent[0].headers
    told = Told([NEVER_SENT, DONE])
    assert told.client(Service.HPC_AI).instances.create(ORDER) == "notebook-1"


@pytest.mark.parametrize("verb", VERBS)
def test_what_may_be_asked_twice_is(verb: str) -> None:
    told = Told([LOST, BUSY, DONE])
    getattr(told.client().instances, verb)("notebook-1")
    assert [request.path for request in told.sent] == [f"/api/instance/{verb}"] * 3


def test_a_restart_is_not_sent_again_once_the_server_may_have_seen_it() -> None:
    told = Told([LOST, DONE])
    with pytest.raises(NoAnswer):
        told.client().instances.restart("notebook-1")
    assert len(told.sent) == 1
    told = Told([NEVER_SENT, DONE])
    told.client().instances.restart("notebook-1")
    assert len(told.sent) == 2


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "notInOptions", errors.BadRequest),
        (401, "unauthenticated", errors.NotLoggedIn),
        (402, "notEnoughMoney", errors.NotEnoughMoney),
        (403, "quotaExceeded", errors.Forbidden),
        (404, "instanceNotFound", errors.NotFound),
        (409, "stateForbids", errors.Conflict),
        (409, "outOfStock", errors.OutOfStock),
        (413, "tooLarge", errors.BadRequest),
        (418, "teapot", errors.Refused),
        (500, "error", errors.ServerFailed),
    ],
)
def test_a_refusal_is_an_error_with_the_servers_words_and_is_not_argued_with(
    status: int, code: str, kind: type[errors.Refused]
) -> None:
    told = Told([answered(status, {"message": "said so", "error": code}), DONE])
    with pytest.raises(errors.Refused) as caught:
        told.client().instances.create(ORDER)
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.status, caught.value.code) == ("said so", status, code)
    assert len(told.sent) == 1


def test_told_to_wait_it_waits_as_long_as_it_was_told() -> None:
    told = Told([answered(429, {"message": "slow"}, retry_after="7"), DONE])
    told.client().instances.restart("notebook-1")
    assert told.pauses == [7.0]


def test_who_is_to_wait_for_longer_than_they_will_is_told_so() -> None:
    told = Told([answered(429, {"message": "slow"}, retry_after="900"), DONE])
    with pytest.raises(errors.TooManyRequests) as caught:
        told.client().account.login("alice", "secret")
    assert (caught.value.retry_after, told.pauses) == (900.0, [])


def test_attempts_and_patience_have_an_end_and_pauses_grow() -> None:
    told = Told([BUSY] * 50)
    with pytest.raises(errors.Unavailable):
        told.client(attempts=5).instances.stop("notebook-1")
    assert len(told.sent) == 5
    assert all(later > pause / 2 for pause, later in zip(told.pauses, told.pauses[1:], strict=False))
    told = Told([BUSY] * 500)
    with pytest.raises(errors.Unavailable):
        told.client(attempts=500, patience=20.0).instances.stop("notebook-1")
    assert 10.0 < told.now <= 20.0
    assert max(told.pauses) <= Retries().longest


def test_an_answer_that_is_no_json_is_said_to_be_none_and_a_refusal_without_words_too() -> None:
    told = Told([answered(200, ["not", "an", "object"])])
    with pytest.raises(errors.NotUnderstood, match="is it a tidemill server"):
        told.client().billing.balance()
    page = answered(404)
    told = Told([type(page)(404, {}, b"<html>nginx</html>")])
    with pytest.raises(errors.NotFound, match="HTTP status 404"):
        told.client().billing.balance()


def test_what_json_cannot_say_is_not_sent() -> None:
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    for order in ({"a": float("nan")}, {"a": b""}, {"a": "\ud800"}, itself):
        told = Told([DONE])
        with pytest.raises(errors.ClientError, match=r"Unicode|JSON"):
            told.client().instances.create(order)
        assert not told.sent
    with pytest.raises(errors.ClientError, match="no amount"):
        amount("1e999999999")


def test_an_answer_that_is_nested_without_end_is_not_understood() -> None:
    deep = b"[" * 200_000
    told = Told([Reply(200, {}, deep), Reply(404, {}, deep), Reply(200, {}, deep)])
    with pytest.raises(errors.NotUnderstood):
        told.client().instances.get("notebook-1")
    with pytest.raises(errors.NotFound):
        told.client().instances.get("notebook-1")
    with pytest.raises(errors.NotUnderstood):
        told.client(Service.HPC_AI).billing.balance()


def test_a_proxy_that_is_none_is_an_error_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "ftp://somebody:secret@proxy")
    for kind in (Client, AsyncClient):
        with pytest.raises(errors.ClientError, match="HTTPS_PROXY") as caught:
            kind("http://gpu.example.org", token="t")
        assert "secret" not in str(caught.value)


def test_login_and_logout_change_who_calls() -> None:
    told = Told([answered(200, {"accessToken": "jwt", "accessExpire": 86400}), answered(200, {})])
    client = told.client()
    assert client.account.login("alice", "secret").accessToken == "jwt"
    assert told.token == "jwt"
    client.account.logout()
    assert told.token is None


def test_money_is_sent_to_the_last_millionth_and_only_what_was_set() -> None:
    posted = {
        "currency": "USD",
        "transaction": {
            "id": "p", "at": "2026-01-01T00:00:00Z", "kind": "payment", "instanceId": None, "since": None,
            "until": None, "memo": "", "corrects": None, "amount": 0.000123, "lines": [],
        },
    }  # fmt: skip
    told = Told([answered(200, posted)])
    client = told.client()
    client.admin.credit("alice", "0.000123", id="i")
    assert told.bodies() == [{"username": "alice", "amount": 0.000123, "id": "i", "memo": ""}]
    with pytest.raises(errors.ClientError, match="no amount"):
        client.admin.credit("alice", "a lot")


def test_a_generated_id_of_a_payment_is_the_same_when_it_is_sent_again() -> None:
    told = Told([LOST, answered(404, {"message": "no such user", "error": "userNotFound"})])
    with pytest.raises(errors.NotFound):
        told.client().admin.credit("alice", 5)
    first, second = told.bodies()
    assert first == second
    assert first["id"]


def test_secrets_are_not_in_what_is_shown() -> None:
    told = Told([answered(200, {"accessToken": "jwt-secret", "accessExpire": 1})])
    answer = told.client().account.login("alice", "hunter22")
    shown = repr((told.sent, answer))
    assert "hunter22" not in shown
    assert "jwt-secret" not in shown
    assert json.loads(told.sent[0].body or b"")["password"] == "hunter22"
