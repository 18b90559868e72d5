"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        "-s",
        metavar="NAME|URL",
        help="Which server; without it, the current one.",
        show_default=False,
    ),
]
SelfOption = Annotated[
    bool, typer.Option("--self", help="Inside an instance: with the key that its server gave it.")
]
