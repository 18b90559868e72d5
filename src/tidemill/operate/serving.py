"""``tidemill serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.operate.configuration import ConfigFile, DataDir, configuration_of, saying


def serve(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the API listens on.")] = None,
    role: Annotated[str | None, typer.Option(help="all, or the api or the loop alone (PostgreSQL).")] = None,
) -> None:
    """Run the server in the foreground.

    SIGTERM ends it; instances go on running.
    """
    from tidemill import server

    with saying():
        server.main(configuration_of(config, data_dir, host=host, port=port, role=role))
