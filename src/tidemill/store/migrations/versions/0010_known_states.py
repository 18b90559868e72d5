"""An instance is moved to no state that this version does not know

Of updates alone, and by a trigger: a row that has such a state already stays as it is and can be mended, and
so does one that comes back from a backup. ``tidemill doctor`` names them.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

STATES = (
    "Initializing",
    "PullingImage",
    "Starting",
    "Running",
    "Restarting",
    "Stopping",
    "Stopped",
    "StartingFailed",
    "InitializationFailed",
    "Archived",
    "Terminating",
    "Released",
)
REFUSED = "that is no state of an instance"


def upgrade() -> None:
    known = ", ".join(f"'{state}'" for state in STATES)
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER instances_known_state BEFORE UPDATE OF state ON instances "
            f"WHEN NEW.state IS NOT OLD.state AND NEW.state NOT IN ({known}) "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSED}'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION instances_known_state() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{REFUSED}' USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER instances_known_state BEFORE UPDATE OF state ON instances FOR EACH ROW "
        f"WHEN (NEW.state IS DISTINCT FROM OLD.state AND NEW.state NOT IN ({known})) "
        "EXECUTE FUNCTION instances_known_state()"
    )
