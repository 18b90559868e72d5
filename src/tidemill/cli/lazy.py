"""A group of commands that is a table: a command's module is imported when the command is asked for.

Help and completion of the group are written from the table, so that neither loads any command.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import getdoc
from typing import TYPE_CHECKING, Any, ClassVar, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group
from typer.models import CommandInfo

from tidemill.cli import streams

if TYPE_CHECKING:
    from typer._click import Command as ClickCommand
    from typer._click import Context, HelpFormatter
    from typer._click.shell_completion import CompletionItem

COMPLETION = "_TIDEMILL_COMPLETE"  # set by the shell's completion that Typer wrote
HELP = ("-h", "--help")


class NounGroup(TyperGroup):
    """A noun, whose verbs are made when they are asked for: what one takes costs the others nothing."""

    verbs: Mapping[str, CommandInfo] = {}

    def list_commands(self, ctx: Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: Context, cmd_name: str) -> ClickCommand | None:
        verb = self.verbs.get(cmd_name)
        return None if verb is None else alone(verb)

    def names(self) -> list[str]:
        """What :meth:`get_command` knows."""
        return list(self.verbs)

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, ClickCommand | None, list[str]]:
        names = self.names()
        if not ctx.resilient_parsing and args and not args[0].startswith("-") and args[0] not in names:
            near = get_close_matches(args[0], names)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(verb)) for name, verb in self.verbs.items()])


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table.

    ``target`` is ``module:name`` of a function, or of what :func:`commands` gave (a noun with verbs).
    ``help`` is the first line of the function's docstring, or the noun's help. ``panel`` is the heading that
    it stands under. ``aliases`` work and are not listed. ``passes_on``: options that it does not know, and
    all that follows the first word that is no option, are words of its argument.
    """

    name: str
    target: str
    panel: str
    help: str
    aliases: tuple[str, ...] = ()
    passes_on: bool = False


def commands(help: str) -> typer.Typer:
    """A noun: give it verbs with ``@app.command()``. ``help`` is one line."""
    return typer.Typer(
        cls=NounGroup,
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def loaded(row: Command) -> ClickCommand:
    """The command of a row, with its module imported."""
    module, _, name = row.target.partition(":")
    found = getattr(import_module(module), name)
    if isinstance(found, typer.Typer):
        return _noun(row.name, found)
    passing = {"ignore_unknown_options": True, "allow_interspersed_args": False} if row.passes_on else {}
    return alone(CommandInfo(row.name, callback=found, context_settings=passing))


def alone(verb: CommandInfo) -> ClickCommand:
    """A command by itself, of which nothing was made but what Typer wrote down of its function."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.registered_commands.append(verb)
    return get_command(app)


def _noun(name: str, app: typer.Typer) -> ClickCommand:
    verbs, app.registered_commands = app.registered_commands, []
    try:
        group = cast(NounGroup, get_group(app))  # the class that :func:`commands` said
    finally:
        app.registered_commands = verbs
    group.name = name
    group.verbs = {_name(verb): verb for verb in verbs}
    return group


def _name(verb: CommandInfo) -> str:
    return verb.name or getattr(verb.callback, "__name__", "")


def _first_line(verb: CommandInfo) -> str:
    return (getdoc(verb.callback) or "").split("\n\n")[0].replace("\n", " ")


class LazyGroup(NounGroup):
    """The group of ``table``, in the table's order, under its panels' headings."""

    table: ClassVar[Sequence[Command]] = ()

    def list_commands(self, ctx: Context) -> list[str]:
        return [row.name for row in self.table]

    def get_command(self, ctx: Context, cmd_name: str) -> ClickCommand | None:
        row = next((row for row in self.table if cmd_name == row.name or cmd_name in row.aliases), None)
        return None if row is None else loaded(row)

    def names(self) -> list[str]:
        return [name for row in self.table for name in (row.name, *row.aliases)]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        widest = max((len(row.name) for row in self.table), default=0)
        for panel in dict.fromkeys(row.panel for row in self.table):
            rows = [(row.name.ljust(widest), row.help) for row in self.table if row.panel == panel]
            with formatter.section(panel):
                formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> Any:
        streams.prepare()
        if COMPLETION in os.environ:
            from tidemill.cli import completion

            completion.prepared()
        return super().main(*args, **extra)

    def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
        from typer._click.shell_completion import CompletionItem

        found = [
            CompletionItem(row.name, help=row.help) for row in self.table if row.name.startswith(incomplete)
        ]
        return found or super(TyperGroup, self).shell_complete(ctx, incomplete)

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            from tidemill.cli import failures

            ending = failures.ending(error, ctx.meta)
            if ending is None:
                raise
            raise ending from error
