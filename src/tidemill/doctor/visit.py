"""One visit of the doctor: open the deployment, look, do what was asked for, leave."""

from __future__ import annotations

from tidemill.clock import Clock
from tidemill.deployment import present_url
from tidemill.doctor.examination import Examination
from tidemill.doctor.mend import mend, remove_orphans
from tidemill.doctor.symptom import Report
from tidemill.settings import Configuration
from tidemill.store.database import Database


async def visit(
    configuration: Configuration, clock: Clock, *, fix: bool = False, orphans: bool = False
) -> Report:
    """The whole of it. ``fix`` and ``orphans`` ask for something to be done.

    Raises Misconfigured where there is no deployment, Unavailable.
    """
    url = present_url(configuration.settings)
    database = Database(url.render_as_string(hide_password=False))
    examination = Examination(configuration, clock, database)
    try:
        await examination.look()
        if fix and not examination.report.blind:
            await mend(examination)
        if orphans and not examination.report.blind:
            await remove_orphans(examination)
    finally:
        await examination.close()
        database.close()
    return examination.report
