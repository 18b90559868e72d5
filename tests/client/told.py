"""A world for steps that is told beforehand what comes of each request, with a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tidemill.client.client import _Calls  # pyright: ignore[reportPrivateUsage]
from tidemill.client.effects import Now, Open, Outgoing, Read, Reply, Send, SignIn, Sleep
from tidemill.client.kinds import Sync
from tidemill.client.sending import Manner, Retries
from tidemill.client.service import Service

T = TypeVar("T")


def answered(status: int = 200, body: Any = None, **headers: str) -> Reply:
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, said, json.dumps(body if body is not None else {}).encode())


@dataclass
class Told:
    """``answers`` are Replies, exceptions, or lists of pieces (which are read bit by bit), in order."""

    answers: list[Any]
    now: float = 0.0
    sent: list[Outgoing] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    token: str | None = ""

    def perform(self, effect: Any, taps: list[Any]) -> Any:
        match effect:
            case Send(request) | Open(request):
                self.sent.append(request)
                answer = self.answers.pop(0)
                if isinstance(answer, BaseException):
                    raise answer
                return _Tap(answer) if isinstance(effect, Open) else answer
            case Read(tap):
                piece = next(tap.pieces, None)
                if isinstance(piece, BaseException):
                    raise piece
                return piece
            case Sleep(seconds):
                self.pauses.append(seconds)
                self.now += seconds
                return None
            case Now():
                return self.now
            case SignIn(token):
                self.token = token
                return None
        raise AssertionError(effect)

    def shut(self, taps: list[Any]) -> None:
        assert not taps

    def client(self, service: Service = Service.TIDEMILL, **retries: Any) -> Any:
        """The blocking client's calls over this world."""
        return _Calls[Sync](self, Manner(service, Retries(**retries)), awaits=False)

    def bodies(self) -> list[Any]:
        return [json.loads(request.body or b"null") for request in self.sent]


class _Tap:
    def __init__(self, answer: Any) -> None:
        refused = isinstance(answer, Reply)
        self.status = answer.status if refused else 200
        self.refusal = answer if refused else None
        self.media_type = "text/event-stream"
        self.pieces: Generator[Any] = (piece for piece in ([] if refused else answer))
