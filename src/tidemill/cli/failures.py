"""How a command ends when it did not do what was asked: one table from the error to the exit code.

Kinds are named, not imported, so that a command that fails early loads no more than one that asks for help.
A test holds the names against ``tidemill.client.errors``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import typer

# Full disks, missing rights and the like: no defects of ours, whatever file it is.
OF_THE_MACHINE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
        errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    }
)  # fmt: skip

AS_JSON = "tidemill.as_json"  # in a context's meta: errors are for a program


class Exit(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_LOGGED_IN = 3
    NOT_FOUND = 4
    CONFLICT = 5
    NOT_ENOUGH_MONEY = 6
    OUT_OF_STOCK = 7
    UNAVAILABLE = 8
    FORBIDDEN = 9
    INTERRUPTED = 130


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "it is done",
    Exit.FAILED: "the server refused, or it failed in a way that has no row of its own",
    Exit.USAGE: "the command was typed wrongly; nothing was asked of the server",
    Exit.NOT_LOGGED_IN: "no server is known, nobody is logged in, or the login expired",
    Exit.NOT_FOUND: "there is no such thing, it is not yours, or its name is not unique",
    Exit.CONFLICT: "the present state of things forbids it",
    Exit.NOT_ENOUGH_MONEY: "there is not enough money for it",
    Exit.OUT_OF_STOCK: "nothing of this type is free",
    Exit.UNAVAILABLE: "no answer came, or it was asked too often: the same again may work later",
    Exit.FORBIDDEN: "you may not do this, or a quota or cap is reached",
    Exit.INTERRUPTED: "it was interrupted by Ctrl-C",
}


@dataclass(frozen=True, slots=True)
class Ending:
    code: Exit
    next: str = ""


# Of the classes of tidemill.client.errors; what is not here ends as the class that it is derived from.
ENDINGS: Mapping[str, Ending] = {
    "BadRequest": Ending(Exit.FAILED),
    "NotLoggedIn": Ending(Exit.NOT_LOGGED_IN, "Log in with: tidemill login"),
    "NotEnoughMoney": Ending(Exit.NOT_ENOUGH_MONEY),
    "Forbidden": Ending(Exit.FORBIDDEN),
    "NotFound": Ending(Exit.NOT_FOUND),
    "Unknown": Ending(Exit.NOT_FOUND),
    "Conflict": Ending(Exit.CONFLICT),
    "OutOfStock": Ending(Exit.OUT_OF_STOCK),
    "TooManyRequests": Ending(Exit.UNAVAILABLE),
    "Unavailable": Ending(Exit.UNAVAILABLE),
    "NotConnected": Ending(Exit.UNAVAILABLE, "Which server is asked, says: tidemill config show"),
    "NoAnswer": Ending(Exit.UNAVAILABLE),
    "WaitedTooLong": Ending(Exit.UNAVAILABLE),
    "ClientError": Ending(Exit.FAILED),
}


class Failure(Exception):
    """A command's own error: what is wrong in a sentence, and what to do next in another."""

    def __init__(
        self, message: str, *, exit: Exit = Exit.FAILED, next: str = "", code: str = "failed"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit = exit
        self.next = next
        self.code = code


def ending(error: Exception, meta: Mapping[str, object]) -> typer.Exit | None:
    """Say ``error`` on standard error and give the exit it ends with; None where it is a defect of ours."""
    if isinstance(error, Failure):
        return _said(error.message, error.next, error.exit, {"error": error.code}, meta)
    for kind in type(error).__mro__:
        found = ENDINGS.get(kind.__name__)
        if found is not None and kind.__module__ == "tidemill.client.errors":
            about = {"error": getattr(error, "code", _word(type(error).__name__))}
            about |= {
                name: getattr(error, name) for name in ("status", "retry_after") if hasattr(error, name)
            }
            return _said(str(error), found.next, found.code, about, meta)
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        where = "" if error.filename is None else f"{error.filename}: "
        return _said(f"{where}{error.strerror}", "", Exit.FAILED, {"error": "machine"}, meta)
    return None


def _word(name: str) -> str:
    return name[0].lower() + name[1:]


def _said(
    message: str, next: str, code: Exit, about: Mapping[str, object], meta: Mapping[str, object]
) -> typer.Exit:
    if meta.get(AS_JSON):
        told = {"message": message, **about, "next": next or None, "exit": int(code)}
        told = {name: value for name, value in told.items() if value is not None}
        typer.echo(json.dumps(told, ensure_ascii=False), err=True)
    else:
        from tidemill.cli.table import seemly

        message = "\n".join(map(seemly, message.split("\n")))  # names in it come from others
        text = f"tidemill: {message}"
        if next:
            text = f"{text.rstrip('.')}. {next}"
        plain = bool(os.environ.get("NO_COLOR")) or not sys.stderr.isatty()
        typer.secho(text, err=True, fg=None if plain else typer.colors.RED)
    return typer.Exit(int(code))
