"""Which deployment an operator's command is about, and how such a command fails."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from tidemill.cli.failures import OF_THE_MACHINE
from tidemill.model.errors import TidemillError

if TYPE_CHECKING:
    from tidemill.settings import Configuration

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="TIDEMILL_CONFIG", help="tidemill.toml; default: the one in the data folder"
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder for everything the server keeps.")]


def configuration_of(config: Path | None, data_dir: Path | None, **overrides: object) -> Configuration:
    """The settings and catalogue that a command is about, from ``config`` or from the data folder's own file.

    A restore that was cut short is settled first. Raises Misconfigured.
    """
    from tidemill import staging
    from tidemill.settings import OWN_FILE, load

    given = {"data_dir": data_dir, **overrides}
    configuration = load(config, given)
    folder = configuration.settings.data_dir
    if staging.is_pending(folder):
        from tidemill.backup.restore import settle

        settle(folder)
    own = folder / OWN_FILE
    if config is None and own.exists():
        configuration = load(own, given)
    return configuration


@contextmanager
def saying(code: int = 1) -> Generator[None]:
    """What only the operator can see to is said in a sentence, and the command ends with ``code``."""
    try:
        yield
    except TidemillError as error:
        _fail(error.message, error.detail, code)
    except OSError as error:
        if error.errno not in OF_THE_MACHINE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{where}{error.strerror}", "", code)


def _fail(message: str, detail: str, code: int) -> NoReturn:
    typer.secho(f"tidemill: {message}", err=True, fg=typer.colors.RED)
    if detail:
        typer.echo(detail, err=True)
    raise typer.Exit(code)
