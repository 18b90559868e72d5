"""What a process is told of its server by its surroundings: by environment variables, or by its instance.

A server puts a file into an instance that was launched with a key of its own; its lines are
``TIDEMILL_URL=...``, ``TIDEMILL_API_KEY=...``, ``TIDEMILL_INSTANCE=...``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

INSTANCE_FILE = Path("/.tidemill/instance/api")


@dataclass(frozen=True, slots=True)
class Told:
    """Where the server is, and one or none of two proofs of who calls. ``instance`` is the one we are in."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    instance: str = ""


def by_environment(environ: Mapping[str, str] | None = None) -> Told | None:
    """``TIDEMILL_URL`` with ``TIDEMILL_API_KEY`` or ``TIDEMILL_TOKEN``; None where no URL is said."""
    environ = os.environ if environ is None else environ
    url = environ.get("TIDEMILL_URL")
    if not url:
        return None
    return Told(url, environ.get("TIDEMILL_API_KEY") or None, environ.get("TIDEMILL_TOKEN") or None)


def by_instance(file: Path | None = None) -> Told | None:
    """What the server told the instance that we are in; None outside of one, or where it told nothing."""
    try:
        lines = (file or INSTANCE_FILE).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    said = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    url, key = said.get("TIDEMILL_URL"), said.get("TIDEMILL_API_KEY")
    return Told(url, key, None, said.get("TIDEMILL_INSTANCE", "")) if url and key else None
