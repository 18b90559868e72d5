"""What all that only the operator may do has in common: who may, for whom, and that a retry adds nothing."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection

from tidemill.model.account import Caller, User
from tidemill.model.errors import Conflict, NotFound
from tidemill.model.ledger import Posting
from tidemill.store import accounts, ledger, postings

NO_SUCH_PATH = "There is nothing at this path; /api/openapi.json lists what there is"


def check_operator(caller: Caller) -> None:
    """Raises NotFound, as where there is nothing: what is not for somebody is not there for them."""
    if not caller.user.is_admin:
        raise NotFound(NO_SUCH_PATH, code="pathNotFound")


def find_user(connection: Connection, user_id: str, username: str) -> User:
    """The user of that id, or where it is "" of that name. Raises NotFound."""
    found = accounts.by_id(connection, user_id) if user_id else accounts.by_username(connection, username)
    if found is None:
        raise NotFound("user not found", code="userNotFound")
    return found


def begin(connection: Connection, user: User, now: datetime) -> None:
    """Have the user's money be there, and be nobody else's to move until the transaction ends."""
    ledger.take_turns(connection, [user.id])
    ledger.open_wallet(connection, user.id, now)


def known(connection: Connection, posting: Posting) -> Posting | None:
    """What was posted under the same id before. Raises Conflict where that was something else."""
    found = postings.by_ids(connection, [posting.id]).get(posting.id)
    if found is not None and found.lines != posting.lines:
        raise id_used()
    return found


def id_used() -> Conflict:
    return Conflict("This id was used for something else already; send another one", code="idUsed")


def post(connection: Connection, posting: Posting) -> Posting:
    """Write a posting down."""
    ledger.post(connection, [posting])
    return posting
