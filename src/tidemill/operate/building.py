"""What instances are made of: ``tidemill guest`` and ``base-image``."""

from __future__ import annotations

import typer

from tidemill.operate.configuration import ConfigFile, DataDir, configuration_of, saying


def guest(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Build what goes into every instance.

    That is an ssh server and a first process, from Debian packages.
    """
    from tidemill.guest.build import build

    with saying():
        folder = build(configuration_of(config, data_dir).settings.data_dir / "guest")
    typer.echo(f"The guest is at {folder}.")


def base_image() -> None:
    """Make the small Debian base image.

    With the container engine, and without any registry.
    """
    from tidemill.guest.base_image import ensure

    with saying():
        name = ensure()
    typer.echo(f"The base image is {name}.")
