"""The tree of errors that a person can cause or must act on.

``str(error)`` is the sentence the caller reads: what is wrong and what to do. ``code`` is the
stable word beside it on the wire. What the operator needs and the caller must not see goes into
``detail`` and from there into the log. ``api/app.py`` has the one table from these to HTTP.
"""

from __future__ import annotations


class TidemillError(Exception):
    """Base of all errors that have an answer on the wire."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        if code is not None:
            self.code = code


class Invalid(TidemillError):
    """The caller must change the request."""

    code = "invalidRequest"


class Unauthenticated(TidemillError):
    """The caller must sign in (again)."""

    code = "unauthenticated"

    def __init__(
        self,
        message: str = "Not logged in or login expired, please log in again",
        *,
        code: str | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message, code=code, detail=detail)


class Forbidden(TidemillError):
    """The caller is known, and this is not for them."""

    code = "forbidden"


class NotEnoughMoney(TidemillError):
    """The caller must pay in first; the message says how much is needed and how much there is."""

    code = "notEnoughMoney"


class NotFound(TidemillError):
    """It is not there, or not the caller's: the answer is the same."""

    code = "notFound"


class Conflict(TidemillError):
    """The present state of things forbids it; the message says which state."""

    code = "conflict"


class OutOfStock(Conflict):
    """No node has room; the message names what is in stock instead."""

    code = "outOfStock"


class TooManyAttempts(TidemillError):
    """The caller must wait ``retry_after`` seconds."""

    code = "tooManyAttempts"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TidemillError):
    """The operator must act (or the caller try later): something we stand on gives no answer."""

    code = "unavailable"


class Misconfigured(TidemillError):
    """The operator must change a setting or the machine before the server can start."""

    code = "misconfigured"
