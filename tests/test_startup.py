"""What a command loads before it does anything: an operator types them, and scripts do so in loops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"fastapi", "uvicorn", "aiodocker", "alembic", "psycopg", "structlog", "rich.console", "httpx"}


def loaded_by(*words: str) -> set[str]:
    """Modules that are there when a command has ended."""
    code = (
        "import sys\n"
        "from tidemill.root import app\n"
        f"try:\n    app({list(words)!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("command", ["init", "add-user", "credit", "backup"])
def test_a_short_command_loads_no_more_than_it_needs(tmp_path: Path, command: str) -> None:
    folder = str(tmp_path / "data")
    subprocess.run([sys.executable, "-m", "tidemill", "init", "--data-dir", folder], check=True)
    words = {
        "init": (),
        "add-user": ("alice",),
        "credit": ("user", "5"),
        "backup": (str(tmp_path / "backup"),),
    }[command]
    loaded = loaded_by(command, *words, "--data-dir", folder)
    needed = {"alembic"} if command == "backup" else set()  # it asks which tables the revision has
    assert loaded & HEAVY == needed
