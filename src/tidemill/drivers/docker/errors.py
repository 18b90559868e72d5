"""What the engine's no means to the one who must act: give up, place again, or try later.

The messages are read by users, so they name what the user or the operator can change, and keep
the engine's words only where ours would be a guess.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from aiodocker.exceptions import DockerError

from tidemill.drivers.contract import DriverError, NoRoom, Refused, Unreachable

_PORT = re.compile(
    r":(\d+)(?: failed)?: (?:bind: address already in use|port is already allocated)"
    r"|failed to bind host port (?:for )?\S*?(?:\]|\.\d+):(\d+)[:/]\S*: address already in use"  # Docker 28
)
_NO_SPACE = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_NO_GPU = re.compile(r"could not select device driver|nvidia-container-cli|unknown or invalid runtime")
_WILL_NEVER = re.compile(r"OCI runtime|runc |starting container process|error gathering device information")
_FULL = "The disk of the machine is full; terminate instances or free space on it"


def no_answer(url: str, error: Exception) -> str:
    """What an operator can do about an engine that gave no answer at ``url``."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    text = str(error)
    if isinstance(cause, PermissionError) or "Permission denied" in text:
        return (
            f"No permission to speak to the container engine at {url}: "
            "run the server as root or as a member of the group docker"
        )
    if isinstance(error, TimeoutError):
        return (
            f"The container engine at {url} did not answer in time; see `systemctl status docker` and its log"
        )
    return f"The container engine at {url} does not answer; start it with `systemctl start docker`"


@contextmanager
def in_contract_words(hide: Iterable[str] = ()) -> Generator[None]:
    """Let only the contract's three errors out; ``hide`` are host paths kept from users."""
    try:
        yield
    except DockerError as error:
        raise translate(error.status, without(error.message, hide)) from error
    except DriverError as error:
        words = without(str(error), hide)
        if words == str(error):
            raise
        raise type(error)(words) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoom(_FULL) from error
        words = error.strerror or "input/output error"
        raise Unreachable(f"The server could not prepare the instance on its own disk: {words}") from error


def translate(status: int, message: str) -> DriverError:
    """The engine's HTTP ``status`` and words as the error that says who must act."""
    port = _PORT.search(message)
    if port is not None:
        number = int(port[1] or port[2])
        return NoRoom(f"Port {number} of the machine is in use by another program", node_port=number)
    if _NO_SPACE.search(message):
        return NoRoom(_FULL)
    if _NO_GPU.search(message):
        return Refused(
            "The machine could not hand over its GPU; its operator should see that the NVIDIA "
            f"container toolkit is installed. The engine says: {message}"
        )
    if status in {404, 409}:  # somebody else is at it, or it went a moment ago: it is made anew then
        return Unreachable(f"The container engine could not do it now: {message}")
    if 400 <= status < 500 or _WILL_NEVER.search(message):
        return Refused(f"The container engine refused: {message}")
    return Unreachable(f"The container engine failed: {message}")


def without(message: str, hide: Iterable[str]) -> str:
    """``message`` with nothing of where things are on the host."""
    for path in hide:
        message = message.replace(path, "…")
    return message
