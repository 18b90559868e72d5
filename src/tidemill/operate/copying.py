"""``tidemill backup`` and ``restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.operate.configuration import ConfigFile, DataDir, configuration_of, saying


def backup(
    file: Annotated[str, typer.Argument(help="Where to write it; - for standard output.")],
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Write a copy of the deployment while its server goes on.

    Database, token keys and settings are in it. It holds secrets and is readable by you alone. The disks
    of instances are not in it.
    """
    from tidemill.backup import say
    from tidemill.backup.take import back_up, private_file, standard_output
    from tidemill.clock import SystemClock

    with saying():
        settings = configuration_of(config, data_dir).settings
        with standard_output() if file == "-" else private_file(Path(file)) as target:
            manifest = back_up(settings, SystemClock(), config, target)
    typer.echo(say.taken(manifest, file), err=True)


def restore(
    file: Annotated[Path, typer.Argument(help="What `tidemill backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put what is there aside, instead of refusing.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Make a backup the deployment of an empty data folder.

    The database has to be empty, too. No server may run on them. What the backup does not know is
    reported by the server afterwards, and removed only when `tidemill doctor` is told so.
    """
    from tidemill.backup import say
    from tidemill.backup.restore import restore as restore_from
    from tidemill.clock import SystemClock

    with saying():
        settings = configuration_of(config, data_dir).settings
        given = {"data_dir": data_dir}
        restored = restore_from(file, settings, config, given, SystemClock(), replace=replace)
    typer.echo(say.restored(restored), err=True)
