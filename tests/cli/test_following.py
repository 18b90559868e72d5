"""What Ctrl-C does to a launch while it is asked for, without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import typer

from tidemill.cli import following
from tidemill.client import errors


class Instances:
    """Calls of a client; ``answers`` come one by one, and exceptions are raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    def create(self, body: dict[str, Any], *, idempotency_key: str) -> str:
        return self._next("create", body["name"], idempotency_key)

    def terminate(self, id: str) -> None:
        self._next("terminate", id)

    def _next(self, *asked: Any) -> Any:
        self.asked.append(asked)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def begin(instances: Instances, **how: bool) -> Any:
    client: Any = SimpleNamespace(instances=instances)
    return following.begun(client, {"name": "a b"}, **{"cancels": False, "knows_keys": True} | how)


def test_an_interrupted_question_is_asked_again_under_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    instances = Instances(KeyboardInterrupt(), "notebook-1")
    with pytest.raises(typer.Exit) as ended:
        begin(instances)
    assert ended.value.exit_code == 130
    first, second = instances.asked
    assert first == second
    assert capsys.readouterr().err == (
        "The launch of a b goes on by itself. Cancel it with: tidemill rm 'a b'\n"
    )


@pytest.mark.parametrize("answer", [None, errors.NotFound("gone", status=404, code="x")])
def test_where_interrupting_cancels_what_was_made_is_ended(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    instances = Instances(KeyboardInterrupt(), "notebook-1", answer)
    with pytest.raises(typer.Exit):
        begin(instances, cancels=True)
    assert instances.asked[-1] == ("terminate", "notebook-1")
    assert capsys.readouterr().err == "a b is cancelled\n"


def test_a_service_without_keys_is_not_asked_twice() -> None:
    instances = Instances(KeyboardInterrupt(), "notebook-1")
    with pytest.raises(KeyboardInterrupt):
        begin(instances, knows_keys=False)
    assert len(instances.asked) == 1


def test_what_the_server_refused_is_refused() -> None:
    refusal = errors.OutOfStock("none", status=409, code="outOfStock")
    with pytest.raises(errors.OutOfStock):
        begin(Instances(refusal))
