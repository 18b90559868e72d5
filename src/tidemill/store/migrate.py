"""Bringing a database to the schema of this version; forward only."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidemill.model.errors import Misconfigured
from tidemill.store.database import Database


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    return config


def migrate(database: Database) -> None:
    """Run what migrations are missing. Raises Misconfigured for a database of a newer version."""
    config = _config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}

    def work(connection: Connection) -> None:
        present = MigrationContext.configure(connection).get_current_heads()
        if not set(present) <= known:
            raise Misconfigured(
                "The database was written by a newer version of tidemill; install that version, "
                "or restore a backup made with this one"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    database.run(work)
