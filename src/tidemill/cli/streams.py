"""Standard input, output and error, whatever a command was started with.

A job of cron may have none of them, and an old locale may have no letters for what we print. A stream that is
closed becomes one that is empty: else the next file that is opened would get its number, and what is printed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

FLAGS = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def prepare() -> None:
    """Open what is closed; print a mark for what the locale cannot say, instead of failing."""
    for number, flags in enumerate(FLAGS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free, which is this one
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    reconfigure: Any = getattr(sys.stdout, "reconfigure", None)  # not every test has a real one
    if reconfigure is not None:
        reconfigure(errors="replace")


def has_all_letters() -> bool:
    """Whether standard output can say any text."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")
