"""The command ``tidemill`` itself, for those who rent and for the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tidemill.cli.lazy import HELP, LazyGroup
from tidemill.commands import COMMANDS
from tidemill.version import VERSION

if TYPE_CHECKING:
    from typer._click import Context


class Tidemill(LazyGroup):
    table = COMMANDS

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """``--version`` before anything else is looked at."""
        if args == ["--version"]:
            typer.echo(f"tidemill {VERSION}")
            ctx.exit()
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Tidemill,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
    epilog="tidemill COMMAND --help says more about one; tidemill --version, which version this is.",
)


@app.callback()
def tidemill() -> None:
    """Turn the machines you own into a GPU cloud that people rent by the hour."""
