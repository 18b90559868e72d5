"""The ledger: accounts, and postings that are only ever added.

``post`` is the only writer of entries and of what accounts hold. Whoever reads a user's accounts to spend
from them locks them first (``purse``), so that the same money is not spent twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from tidemill.model.ledger import (
    OWN,
    REVENUE,
    Account,
    AccountKind,
    Cause,
    Line,
    Posting,
    balance_of,
    held_of,
)
from tidemill.store import wallets
from tidemill.store.bulk import Bulk
from tidemill.store.prepared import Prepared, among
from tidemill.store.schema import Instant, entries, ledger_accounts, users
from tidemill.store.schema import wallets as wallet_rows

_ACCOUNT = (
    ledger_accounts.c.id,
    ledger_accounts.c.user_id,
    ledger_accounts.c.kind,
    ledger_accounts.c.amount_micro,
    ledger_accounts.c.expires_at,
    ledger_accounts.c.name,
)
_KINDS = {kind.value: kind for kind in AccountKind}
_LOCK = Prepared(
    select(users.c.id).where(among(users.c.id, "ids")).order_by(users.c.id).with_for_update(key_share=True)
)
_SPENDABLE = Prepared(
    select(*_ACCOUNT).where(
        among(ledger_accounts.c.user_id, "ids"),
        or_(ledger_accounts.c.amount_micro > 0, ledger_accounts.c.kind == AccountKind.BALANCE.value),
    )
)
_BY_IDS = Prepared(select(*_ACCOUNT).where(among(ledger_accounts.c.id, "ids")))
_EXPIRED = Prepared(
    select(*_ACCOUNT)
    .where(
        ledger_accounts.c.user_id == bindparam("of_user"),
        ledger_accounts.c.amount_micro > 0,
        ledger_accounts.c.expires_at <= bindparam("now", type_=Instant),
    )
    .order_by(ledger_accounts.c.id)
)
_MOVE = Bulk(
    {"account_id": ledger_accounts.c.id.type, "change": ledger_accounts.c.amount_micro.type},
    lambda given: (
        update(ledger_accounts)
        .where(ledger_accounts.c.id == given["account_id"], ledger_accounts.c.amount_micro.is_not(None))
        .values(amount_micro=ledger_accounts.c.amount_micro + given["change"])
    ),
)
_KNOWN = Prepared(select(entries.c.posting_id).where(among(entries.c.posting_id, "ids")))
_WRITE = Bulk.into(entries, [each.name for each in entries.columns if each.name != "seq"])


def open_wallet(connection: Connection, user_id: str, now: datetime) -> None:
    """Have the user's balance, what is held of it, and our own accounts be there."""
    _open(
        connection,
        [
            {"id": own, "user_id": None, "kind": kind.value, "amount_micro": None, "opened_at": now}
            for own, kind in OWN.items()
        ]
        + [
            {"id": id, "user_id": user_id, "kind": kind.value, "amount_micro": 0, "opened_at": now}
            for id, kind in (
                (balance_of(user_id), AccountKind.BALANCE),
                (held_of(user_id), AccountKind.HELD),
            )
        ],
    )
    statement = _dialect(connection).insert(wallet_rows).values(user_id=user_id, look_at=now)
    connection.execute(statement.on_conflict_do_nothing())


def open_account(connection: Connection, account: Account, now: datetime) -> None:
    """Have an account of a user be there: a voucher, or a month's credit. It begins with nothing."""
    _open(
        connection,
        [
            {
                "id": account.id,
                "user_id": account.user_id,
                "kind": account.kind.value,
                "amount_micro": 0,
                "opened_at": now,
                "expires_at": account.expires_at,
                "name": account.name,
            }
        ],
    )


def _open(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    for row in rows:
        statement = _dialect(connection).insert(ledger_accounts).values(row)
        connection.execute(statement.on_conflict_do_nothing())


def _dialect(connection: Connection) -> Any:
    return sqlite if connection.dialect.name == "sqlite" else postgresql


def take_turns(connection: Connection, user_ids: Iterable[str]) -> None:
    """Until the transaction ends nobody else spends what these users have."""
    if connection.dialect.name == "sqlite":
        return  # who writes is alone
    _LOCK.all(connection, {"ids": set(user_ids)})


def accounts_of(connection: Connection, user_ids: Collection[str]) -> dict[str, list[Account]]:
    """The accounts of users that have something in them, and always the balance; by user."""
    found: dict[str, list[Account]] = {user_id: [] for user_id in user_ids}
    for account in map(_account, _SPENDABLE.all(connection, {"ids": user_ids})):
        found[account.user_id].append(account)
    return found


def account(connection: Connection, account_id: str) -> Account | None:
    """One account of a user, also an empty one."""
    mine = (ledger_accounts.c.id == account_id, ledger_accounts.c.user_id.is_not(None))
    row = connection.execute(select(*_ACCOUNT).where(*mine)).first()
    return None if row is None else _account(row)


def by_ids(connection: Connection, ids: Iterable[str]) -> list[Account]:
    """Accounts of users by their ids, also empty ones."""
    wanted = set(ids)
    return [_account(row) for row in _BY_IDS.all(connection, {"ids": wanted})] if wanted else []


def expired(connection: Connection, user_id: str, now: datetime) -> list[Account]:
    """Accounts of a user with something in them that can be spent no longer."""
    return [_account(row) for row in _EXPIRED.all(connection, {"of_user": user_id, "now": now})]


def _account(row: Sequence[Any]) -> Account:
    id, user_id, kind, amount, expires_at, name = row
    return Account(id, user_id, _KINDS[kind], amount, expires_at, name)


def post(connection: Connection, postings: Sequence[Posting]) -> list[Posting]:
    """Write postings down and move what they move; returns those that were not there already.

    The billing is told to look at the money of whoever has more or less of it now. The caller has the
    turn of every user in them. Raises IntegrityError when an account would go below
    zero: then nothing of the transaction stands.
    """
    if not postings:
        return []
    known = {row[0] for row in _KNOWN.all(connection, {"ids": [posting.id for posting in postings]})}
    new = list({posting.id: posting for posting in postings if posting.id not in known}.values())
    rows = [
        (
            posting.id,
            number,
            posting.at,
            str(posting.cause),
            posting.user_id,
            line.debit,
            line.credit,
            line.amount,
            posting.instance_id,
            posting.meter_id,
            posting.since,
            posting.until,
            posting.corrects,
            posting.memo,
        )
        for posting in new
        for number, line in enumerate(posting.lines)
    ]
    if rows:
        _WRITE.run(connection, rows)
        _move(connection, (line for posting in new for line in posting.lines))
        for user_id, at in {posting.user_id: posting.at for posting in new if _is_news(posting)}.items():
            wallets.look_at(connection, user_id, at)
    return new


def _is_news(posting: Posting) -> bool:
    """Whether somebody's money is to be looked at for it: also when what went back may have expired."""
    if posting.cause is Cause.RELEASE:
        return any(line.credit != balance_of(posting.user_id) for line in posting.lines)
    return posting.cause is not Cause.CHARGE


def cost_of(connection: Connection, instance_id: str) -> int:
    """What an instance has cost so far, as posted, in micro-units."""
    return int(
        connection.execute(
            select(func.coalesce(func.sum(entries.c.amount_micro), 0)).where(
                entries.c.instance_id == instance_id, entries.c.credit_account == REVENUE
            )
        ).scalar_one()
    )


def _move(connection: Connection, lines: Iterable[Line]) -> None:
    changes: dict[str, int] = defaultdict(int)
    for line in lines:
        changes[line.debit] -= line.amount
        changes[line.credit] += line.amount
    moved = [
        (account_id, change)
        for account_id, change in sorted(changes.items())
        if change and account_id not in OWN
    ]
    _MOVE.run(connection, moved)
