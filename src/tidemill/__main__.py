"""The command ``tidemill``: what an operator types on the server's machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tidemill.model.errors import TidemillError
from tidemill.settings import Configuration, load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn the machines you own into a GPU cloud that people rent by the hour.",
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", envvar="TIDEMILL_CONFIG", help="tidemill.toml; default: the one in the data folder"
    ),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder for everything the server keeps.")]


def _configuration(config: Path | None, data_dir: Path | None, **overrides: object) -> Configuration:
    given = {"data_dir": data_dir, **overrides}
    configuration = load(config, given)
    own = configuration.settings.data_dir / "tidemill.toml"
    if config is None and own.exists():
        configuration = load(own, given)
    return configuration


def _fail(error: TidemillError) -> NoReturn:
    typer.secho(f"tidemill: {error.message}", err=True, fg=typer.colors.RED)
    if error.detail:
        typer.echo(error.detail, err=True)
    raise typer.Exit(1)


@app.command()
def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the API listens on.")] = None,
) -> None:
    """Run the server in the foreground; SIGTERM ends it, instances go on running."""
    from tidemill import server

    try:
        server.main(_configuration(config, data_dir, host=host, port=port))
    except TidemillError as error:
        _fail(error)


@app.command()
def init(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Make data folder, signing keys, database and the first accounts; again, it changes nothing."""
    from tidemill import deployment
    from tidemill.clock import SystemClock

    try:
        configuration = _configuration(config, data_dir)
        deployment.initialise(configuration, SystemClock())
    except TidemillError as error:
        _fail(error)
    typer.echo(f"The data folder {configuration.settings.data_dir} is ready.")


@app.command("add-user")
def add_user(
    username: Annotated[str, typer.Argument(help="What the user logs in with.")],
    admin: Annotated[bool, typer.Option("--admin", help="Make it an administrator.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make another account and print its password, once."""
    from tidemill import deployment
    from tidemill.clock import SystemClock

    try:
        user, password = deployment.add_account(
            _configuration(config, data_dir), SystemClock(), username, is_admin=admin
        )
    except TidemillError as error:
        _fail(error)
    typer.echo(f"user      {user.username}\npassword  {password}")


@app.command()
def guest(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Build what goes into every instance (ssh server, first process) from Debian packages."""
    from tidemill.guest.build import build

    try:
        folder = build(_configuration(config, data_dir).settings.data_dir / "guest")
    except TidemillError as error:
        _fail(error)
    typer.echo(f"The guest is at {folder}.")


@app.command("base-image")
def base_image() -> None:
    """Make the small Debian base image with the container engine, without any registry."""
    from tidemill.guest.base_image import ensure

    try:
        name = ensure()
    except TidemillError as error:
        _fail(error)
    typer.echo(f"The base image is {name}.")


if __name__ == "__main__":
    app()
