"""``tidemill doctor`` and ``audit``."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.operate.configuration import ConfigFile, DataDir, configuration_of, saying


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
    """Compare database, engine and machine.

    It says what is not as it should be. Beside a running server or without one; nothing is changed unless
    asked for. Ends with 0 when all is well, 1 when something was found, 2 when not everything could be
    looked at.
    """
    import asyncio

    from tidemill import logs
    from tidemill.clock import SystemClock
    from tidemill.doctor import tell
    from tidemill.doctor.symptom import Exit
    from tidemill.doctor.visit import visit

    with saying(Exit.BLIND):
        configuration = configuration_of(config, data_dir)
        logs.configure(configuration.settings.log_format)
        report = asyncio.run(visit(configuration, SystemClock(), fix=fix, orphans=remove_orphans))
    typer.echo(tell.as_json(report) if as_json else tell.as_text(report))
    raise typer.Exit(report.exit_code)


def audit(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Reckon every charge a second time.

    That is from the history of events, and it is compared with the ledger. Beside a running server or
    without one; nothing is changed. Ends with 0 when everything agrees, 1 when something differs, 2 when
    it could not be looked at.
    """
    from tidemill.audit import tell
    from tidemill.audit.visit import visit

    with saying(2):
        settings = configuration_of(config, data_dir).settings
        findings = visit(settings)
    typer.echo(tell.as_text(findings, settings.currency))
    raise typer.Exit(1 if findings.many else 0)
