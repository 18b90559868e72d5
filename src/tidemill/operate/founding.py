"""The deployment and its accounts: ``tidemill init``, ``add-user`` and ``credit``."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.operate.configuration import ConfigFile, DataDir, configuration_of, saying


def init(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Make data folder, keys, database and the first accounts.

    Again, it changes nothing.
    """
    from tidemill import deployment
    from tidemill.clock import SystemClock

    with saying():
        configuration = configuration_of(config, data_dir)
        deployment.initialise(configuration, SystemClock())
    typer.echo(f"The data folder {configuration.settings.data_dir} is ready.")


def add_user(
    username: Annotated[str, typer.Argument(help="What the user logs in with.")],
    admin: Annotated[bool, typer.Option("--admin", help="Make it an administrator.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make another account and print its password.

    It is shown this once.
    """
    from tidemill import deployment
    from tidemill.clock import SystemClock

    with saying():
        user, password = deployment.add_account(
            configuration_of(config, data_dir), SystemClock(), username, is_admin=admin
        )
    typer.echo(f"user      {user.username}\npassword  {password}")


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
    """Write down that a user paid in.

    Beside a running server or without one.
    """
    from uuid import uuid4

    from tidemill import deployment
    from tidemill.clock import SystemClock
    from tidemill.model.money import shown

    with saying():
        configuration = configuration_of(config, data_dir)
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
