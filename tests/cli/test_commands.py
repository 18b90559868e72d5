"""The table of commands: each is there, says what the table says, and help loads nothing that it need not."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tidemill.__main__ import main
from tidemill.cli import failures
from tidemill.cli.lazy import Command, loaded
from tidemill.client import errors
from tidemill.commands import COMMANDS
from tidemill.root import app

HEAVY = {
    "rich",
    "httpx",
    "pydantic",
    "yaml",
    "sqlalchemy",
    "fastapi",
    "asyncio",
    "tomllib",
    "tidemill.client",
}


def words() -> Iterator[list[str]]:
    """Every command there is, with the verbs of nouns."""
    yield []
    for row in COMMANDS:
        yield [row.name]
        for verb in getattr(loaded(row), "verbs", ()):
            yield [row.name, verb]


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_the_tables_line_is_the_first_sentence_of_the_commands_help(row: Command) -> None:
    help = loaded(row).help or ""
    assert help.split("\n\n")[0].replace("\n", " ") == row.help


def test_names_and_aliases_are_unique() -> None:
    names = [name for row in COMMANDS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_help_shows_every_command_under_its_heading() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for row in COMMANDS:
        assert re.search(rf"^  {row.name} +{re.escape(row.help)}$", shown.output, re.MULTILINE), row.name
        assert f"\n{row.panel}:\n" in shown.output


@pytest.mark.parametrize("typed", list(words()), ids=" ".join)
def test_help_loads_no_more_than_it_needs(typed: list[str]) -> None:
    code = (
        "import sys\n"
        "from tidemill.root import app\n"
        f"try:\n    app({[*typed, '--help']!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert set(done.stderr.split()) & HEAVY == set()


def test_ls_and_completion_load_neither_models_nor_rich() -> None:
    code = (
        "import sys\n"
        "from tidemill.client import Client\n"
        "from tidemill.cli import completion, instances\n"
        "Client('http://127.0.0.1:1').raw\n"
        "print('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == {"httpx", "tidemill.client"}


def test_ctrl_c_before_anything_is_loaded_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "tidemill.root":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "tidemill.root")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    threshold = gc.get_threshold()
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        gc.set_threshold(*threshold)
    assert end.value.code == failures.Exit.INTERRUPTED


def test_a_verb_that_is_not_there_names_those_that_are_like_it() -> None:
    done = CliRunner().invoke(app, ["key", "lst"])
    assert done.exit_code == 2
    assert "There is no command 'lst'. Did you mean list" in done.output


def test_a_command_that_is_not_there_names_those_that_are_like_it() -> None:
    done = CliRunner().invoke(app, ["crdit"])
    assert done.exit_code == 2
    assert "There is no command 'crdit'. Did you mean credit" in done.output


def test_an_error_of_nobodys_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tidemill.cli.servers.read", broken)
    assert isinstance(CliRunner().invoke(app, ["config", "list"]).exception, ZeroDivisionError)


def test_every_exit_code_has_a_meaning_and_every_ending_a_code() -> None:
    assert set(failures.MEANINGS) == set(failures.Exit)
    assert {row.code for row in failures.ENDINGS.values()} <= set(failures.Exit)
    assert all(issubclass(getattr(errors, name), errors.ClientError) for name in failures.ENDINGS)


def test_a_full_disk_is_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended = failures.ending(OSError(28, "No space left on device", "/tmp/x"), {})
    assert isinstance(ended, typer.Exit)
    assert (ended.exit_code, capsys.readouterr().err) == (1, "tidemill: /tmp/x: No space left on device\n")
    assert failures.ending(OSError(2, "No such file or directory", "/tmp/x"), {}) is None


def test_a_name_in_an_error_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    failures.ending(failures.Failure("a\x1b[2Jb is gone\nand c"), {})
    assert capsys.readouterr().err == "tidemill: a\ufffd[2Jb is gone\nand c\n"


def test_tidemill_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output.split()[0]) == (0, "tidemill")
