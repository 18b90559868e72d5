"""The command ``tidemill``: what an operator types on the server's machine."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tidemill import staging
from tidemill.model.errors import TidemillError
from tidemill.settings import OWN_FILE, Configuration, load

# Full disks, missing rights and the like: no defects of ours, whatever file it is.
OF_THE_MACHINE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
        errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    }
)  # fmt: skip

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
    folder = configuration.settings.data_dir
    if staging.is_pending(folder):
        from tidemill.backup.restore import settle

        settle(folder)
    own = folder / OWN_FILE
    if config is None and own.exists():
        configuration = load(own, given)
    return configuration


@contextmanager
def _saying(code: int = 1) -> Generator[None]:
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


@app.command()
def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the API listens on.")] = None,
    role: Annotated[str | None, typer.Option(help="all, or the api or the loop alone (PostgreSQL).")] = None,
) -> None:
    """Run the server in the foreground; SIGTERM ends it, instances go on running."""
    from tidemill import server

    with _saying():
        server.main(_configuration(config, data_dir, host=host, port=port, role=role))


@app.command()
def init(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Make data folder, signing keys, database and the first accounts; again, it changes nothing."""
    from tidemill import deployment
    from tidemill.clock import SystemClock

    with _saying():
        configuration = _configuration(config, data_dir)
        deployment.initialise(configuration, SystemClock())
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

    with _saying():
        user, password = deployment.add_account(
            _configuration(config, data_dir), SystemClock(), username, is_admin=admin
        )
    typer.echo(f"user      {user.username}\npassword  {password}")


@app.command()
def credit(
    username: Annotated[str, typer.Argument(help="Who paid in.")],
    amount: Annotated[str, typer.Argument(help="In units of the currency, such as 12.50; -- -5 pays back.")],
    id: Annotated[
        str | None,
        typer.Option(help="What tells it from all other payments: the same again adds nothing."),
    ] = None,
    memo: Annotated[str, typer.Option(help="A note for the user's statement.")] = "",
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write down that a user paid in, beside a running server or without one."""
    from uuid import uuid4

    from tidemill import deployment
    from tidemill.clock import SystemClock
    from tidemill.model.money import shown

    with _saying():
        configuration = _configuration(config, data_dir)
        funds = deployment.pay_in(
            configuration, SystemClock(), username, _micro(amount), id=id or str(uuid4()), memo=memo
        )
    typer.echo(f"{username} can spend {shown(funds.available)} {configuration.settings.currency}")


def _micro(amount: str) -> int:
    """An amount as somebody types it, in micro-units. Raises Invalid."""
    from tidemill.model.errors import Invalid
    from tidemill.model.money import to_micro

    below = amount.startswith("-")
    try:
        micro = to_micro(amount.removeprefix("-"))
    except ValueError as error:
        raise Invalid(str(error)) from None
    if not micro:
        raise Invalid(f"{amount} is nothing to write down")
    return -micro if below else micro


@app.command()
def backup(
    file: Annotated[str, typer.Argument(help="Where to write it; - for standard output.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write a copy of the deployment while its server goes on: database, token keys, settings.

    It holds secrets and is readable by you alone. The disks of instances are not in it.
    """
    from tidemill.backup import say
    from tidemill.backup.take import back_up, private_file, standard_output
    from tidemill.clock import SystemClock

    with _saying():
        settings = _configuration(config, data_dir).settings
        with standard_output() if file == "-" else private_file(Path(file)) as target:
            manifest = back_up(settings, SystemClock(), config, target)
    typer.echo(say.taken(manifest, file), err=True)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `tidemill backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put what is there aside, instead of refusing.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a backup the deployment of an empty data folder and an empty database.

    No server may run on them. What the backup does not know is reported by the server afterwards, and
    removed only when `tidemill doctor` is told so.
    """
    from tidemill.backup import say
    from tidemill.backup.restore import restore as restore_from
    from tidemill.clock import SystemClock

    with _saying():
        settings = _configuration(config, data_dir).settings
        given = {"data_dir": data_dir}
        restored = restore_from(file, settings, config, given, SystemClock(), replace=replace)
    typer.echo(say.restored(restored), err=True)


@app.command()
def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Do what can do no harm: count sums anew, ring, remove old orphans.")
    ] = False,
    remove_orphans: Annotated[
        bool,
        typer.Option("--remove-orphans", help="Remove all that no instance wants, also after a restore."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Tell it to a program.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Compare database, engine and machine, and say what is not as it should be.

    Beside a running server or without one; nothing is changed unless asked for. Ends with 0 when all is
    well, 1 when something was found, 2 when not everything could be looked at.
    """
    import asyncio

    from tidemill import logs
    from tidemill.clock import SystemClock
    from tidemill.doctor import tell
    from tidemill.doctor.symptom import Exit
    from tidemill.doctor.visit import visit

    with _saying(Exit.BLIND):
        configuration = _configuration(config, data_dir)
        logs.configure(configuration.settings.log_format)
        report = asyncio.run(visit(configuration, SystemClock(), fix=fix, orphans=remove_orphans))
    typer.echo(tell.as_json(report) if as_json else tell.as_text(report))
    raise typer.Exit(report.exit_code)


@app.command()
def audit(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Reckon every charge a second time from the history of events, and compare it with the ledger.

    Beside a running server or without one; nothing is changed. Ends with 0 when everything agrees, 1 when
    something differs, 2 when it could not be looked at.
    """
    from tidemill.audit import tell
    from tidemill.audit.visit import visit

    with _saying(2):
        settings = _configuration(config, data_dir).settings
        findings = visit(settings)
    typer.echo(tell.as_text(findings, settings.currency))
    raise typer.Exit(1 if findings.many else 0)


@app.command()
def guest(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Build what goes into every instance (ssh server, first process) from Debian packages."""
    from tidemill.guest.build import build

    with _saying():
        folder = build(_configuration(config, data_dir).settings.data_dir / "guest")
    typer.echo(f"The guest is at {folder}.")


@app.command("base-image")
def base_image() -> None:
    """Make the small Debian base image with the container engine, without any registry."""
    from tidemill.guest.base_image import ensure

    with _saying():
        name = ensure()
    typer.echo(f"The base image is {name}.")


if __name__ == "__main__":
    app()
