"""What can go wrong for a program that calls tidemill, as one tree.

Everything below :class:`ClientError` says in ``str(error)`` what is wrong and, where the server said it, what
to do. :class:`Refused` is what the server answered, with its HTTP ``status`` and its stable ``code``;
:class:`NoAnswer` is all that kept an answer from coming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidemill.wire.instances import InstanceRow


class ClientError(Exception):
    """Base of everything that the client raises by itself."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(ClientError):
    """The server answered that it will not. ``retry_after`` is in seconds, where it said so."""

    def __init__(self, message: str, *, status: int, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


class BadRequest(Refused):
    """400, 413: the request must be changed."""


class NotLoggedIn(Refused):
    """401: log in again, or use another key."""


class NotEnoughMoney(Refused):
    """402: pay in first."""


class Forbidden(Refused):
    """403: not for this caller, or over a quota or cap."""


class NotFound(Refused):
    """404: not there, or not the caller's."""


class Conflict(Refused):
    """409: the present state of things forbids it."""


class OutOfStock(Conflict):
    """409 with the code ``outOfStock``: no room for this type in this region."""


class TooManyRequests(Refused):
    """429: wait ``retry_after`` seconds."""


class ServerFailed(Refused):
    """5xx: something went wrong in the server."""


class Unavailable(ServerFailed):
    """502, 503, 504: something that the server stands on gives no answer; try later."""


class NoAnswer(ClientError):
    """No answer came. ``sent`` says whether the server may have seen the request."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class NotConnected(NoAnswer):
    """There was no connection to the server; it has not seen the request."""


class TimedOut(NoAnswer):
    """The server took longer than the client's patience."""


class NotUnderstood(ClientError):
    """The answer is not what this service answers: another program listens there, or it is too old."""


class Unknown(ClientError):
    """A name that is none of what there is; ``known`` is what there is."""

    def __init__(self, message: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.known = known


class EventsLost(ClientError):
    """A stream of events cannot go on where it was: list the instances again, and go on ``after``."""

    def __init__(self, message: str, *, after: int) -> None:
        super().__init__(message)
        self.after = after


class NotReached(ClientError):
    """What was waited for did not come about. ``instance`` is the last that was seen of it."""

    def __init__(self, message: str, instance: InstanceRow) -> None:
        super().__init__(message)
        self.instance = instance


class LaunchFailed(NotReached):
    """The instance will not get there by itself: its launch failed, or it was stopped or ended."""


class WaitedTooLong(NotReached):
    """The patience ended first; the instance goes on by itself."""


_OF_STATUS: dict[int, type[Refused]] = {
    400: BadRequest,
    401: NotLoggedIn,
    402: NotEnoughMoney,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: BadRequest,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_OF_CODE: dict[str, type[Refused]] = {"outOfStock": OutOfStock}


def refused(status: int, said: Mapping[str, object], retry_after: float | None = None) -> Refused:
    """The error for an answer of at least 400; ``said`` is its JSON object, empty where it was none."""
    code = str(said.get("error") or f"http{status}")
    message = str(said.get("message") or f"the server answered with HTTP status {status}")
    by_default = ServerFailed if status >= 500 else Refused
    kind = _OF_CODE.get(code) or _OF_STATUS.get(status, by_default)
    return kind(message, status=status, code=code, retry_after=retry_after)
