"""Completion in the shell: the script, and live names that never keep anybody waiting.

Names come from a file of a few seconds' age, else from the server, which has a moment to answer. Whatever
goes wrong, nothing is offered and nothing is said.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.failures import Failure
from tidemill.cli.lazy import COMPLETION
from tidemill.wire.limits import PAGE_SIZE_MOST

if TYPE_CHECKING:
    from tidemill.cli.access import Access
    from tidemill.cli.places import Places

FRESH = 5.0  # seconds that names are offered again without a question
PATIENCE = 1.0  # seconds for the server
ALL_AT_ONCE = {"currentPage": 1, "pageSize": PAGE_SIZE_MOST}


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="For which shell.", show_default=False)],
) -> None:
    """Print the shell's completion.

    \b
    bash: source <(tidemill completion bash), in ~/.bashrc
    zsh:  source <(tidemill completion zsh), in ~/.zshrc, after compinit
    fish: tidemill completion fish > ~/.config/fish/completions/tidemill.fish
    """
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="tidemill", complete_var=COMPLETION, shell=shell.value))


def prepared() -> None:
    """Make ready for the shell's question, where this process is asked one."""
    from typer._completion_classes import completion_init

    completion_init()
    # Typer would have Rich render the help beside each name: three times as long as all the rest.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]


def instance_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the caller's instances that begin so; of those without a name of their own, ids."""
    try:
        from tidemill.cli.access import chosen
        from tidemill.cli.places import Places

        access = chosen(ctx.params.get("server"), own=bool(ctx.params.get("own")))
        found = _names(access, Places.of()) if access.is_logged_in else []
    except Exception:  # a shell's prompt is no place for errors
        return []
    return [name for name in found if name.startswith(incomplete)]


def _names(access: Access, places: Places) -> list[str]:
    import hashlib
    import json

    from tidemill.cli.places import write_whole

    whose = f"{access.server.url} {access.api_key or access.token}"
    file = places.cache / f"names-{hashlib.sha256(whose.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):
        if _age(file) < FRESH:
            return [str(name) for name in json.loads(file.read_text("utf-8"))]
    from tidemill.cli.instances import name_of
    from tidemill.client import Client, Retries

    with Client(
        access.server.url,
        api_key=access.api_key,
        token=access.token,
        timeout=PATIENCE,
        retries=Retries(attempts=1),
    ) as client:
        page = client.raw.post("/api/instance/list", {"pager": ALL_AT_ONCE}, repeatable=True)
    names = list(dict.fromkeys(map(name_of, page.instances)))
    with suppress(OSError, Failure):
        write_whole(file, json.dumps(names))
    return names


def _age(file: os.PathLike[str]) -> float:
    """Seconds since it was written; a clock that was set back makes it old."""
    from tidemill.clock import SystemClock

    passed = SystemClock().now().timestamp() - os.stat(file).st_mtime
    return passed if passed >= 0 else FRESH
