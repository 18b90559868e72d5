"""What the operator asks for, and is shown, on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from tidemill.catalogue import DAYS
from tidemill.model.account import User
from tidemill.model.funds import Funds
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import Band
from tidemill.wire.answers import Answer, units
from tidemill.wire.billing import Since, TransactionFilter, TransactionRow, not_before_since
from tidemill.wire.caps import CapLimit
from tidemill.wire.fields import Choice, Flag, Instant, Money, Request, Text, TimeOfDay
from tidemill.wire.pages import Pager, PagerInfo
from tidemill.wire.problem import BROKEN_RULE, NOT_SET, refusal
from tidemill.wire.tide import PriceBand

ID_MOST = 50
BANDS_MOST = 100
DISK = "dataDisk"
MODES = (*(mode.value for mode in ChargeMode), DISK)

UserId = Annotated[str, Text(most=255)]
Id = Annotated[str, Text(least=1, most=ID_MOST, one_line=True)]
Memo = Annotated[str, Text(most=255, one_line=True)]


def _needs_a_user(username: str, info: ValidationInfo) -> str:
    """Of ``userId`` and ``username``, which come in this order, one is set."""
    if info.data.get("userId") == "" and not username:
        raise refusal(NOT_SET)
    return username


def _username() -> str:
    return Field("", description="instead of userId", validate_default=True)


class CreditRequest(Request):
    """Body of POST /api/admin/credit. The same ``id`` for the same user again adds nothing."""

    userId: UserId = ""
    username: UserId = _username()
    amount: Annotated[int, Money(signed=True, some=True)] = Field(description="below 0 is paid back")
    id: Id = Field(description="what tells this payment from all others of the user")
    memo: Memo = ""

    _whom = field_validator("username")(_needs_a_user)


class UserCapRequest(CapLimit):
    """Body of POST /api/admin/cap."""

    userId: UserId = ""
    username: UserId = _username()

    _whom = field_validator("username")(_needs_a_user)


class VoucherRequest(Request):
    """Body of POST /api/admin/voucher. The same ``id`` for the same user again adds nothing."""

    userId: UserId = ""
    username: UserId = _username()
    amount: Annotated[int, Money(some=True)]
    id: Id = Field(description="what tells this voucher from all others of the user")
    expiresAt: Annotated[datetime | None, Instant()] = Field(None, description="left out: never")
    name: Annotated[str, Text(most=255, one_line=True)] = ""
    memo: Memo = ""

    _whom = field_validator("username")(_needs_a_user)


class MonthlyCreditRequest(Request):
    """Body of POST /api/admin/monthlyCredit."""

    userId: UserId = ""
    username: UserId = _username()
    amount: Annotated[int, Money()] = Field(description="given each month; 0 for no more")

    _whom = field_validator("username")(_needs_a_user)


class RefundRequest(Request):
    """Body of POST /api/admin/refund. The same ``id`` for the same posting again adds nothing."""

    postingId: Annotated[str, Text(most=160)]
    amount: Annotated[int | None, Money(some=True)] = Field(
        None, description="left out: all that is left of it"
    )
    id: Id = Field("refund", description="what tells it from other refunds of the same posting")
    memo: Memo = ""


class BandRequest(Request):
    """A stretch of the local week with a price of its own, per hour."""

    name: Annotated[str, Text(least=1, most=63, one_line=True)]
    days: list[Annotated[str, Choice(DAYS)]] = Field(
        list(DAYS), description="on which it begins; left out: all"
    )
    from_: Annotated[int, TimeOfDay()] = Field(alias="from")
    to: Annotated[int, TimeOfDay()] = Field(description="not after from: on the next day")
    price: Annotated[int, Money()]

    @field_validator("days")
    @classmethod
    def _some(cls, days: list[str]) -> list[str]:
        if not days:
            raise refusal(BROKEN_RULE, rule="may not be empty")
        return days

    def to_band(self) -> Band:
        days = frozenset(DAYS.index(day) for day in self.days)
        return Band(self.name, days, self.from_, self.to, self.price)


class PriceSetRequest(Request):
    """Body of POST /api/admin/price. ``instanceTypeId`` is left out for dataDisk alone."""

    region: Annotated[str, Text()]
    chargeMode: Annotated[str, Choice(MODES)]
    instanceTypeId: Annotated[str, Text()] = Field("", validate_default=True)
    isSpotInstance: Annotated[bool, Flag()] = False
    price: Annotated[int, Money()] = Field(
        description="per hour, day, week or month by chargeMode; for dataDisk per GB and hour"
    )
    bands: list[BandRequest] = Field([], description="for tidePerHour: the first that holds counts")

    @field_validator("instanceTypeId")
    @classmethod
    def _type_of_it(cls, type_id: str, info: ValidationInfo) -> str:
        mode = info.data.get("chargeMode")
        if mode is not None and mode != DISK and not type_id:
            raise refusal(NOT_SET)
        if mode == DISK and type_id:
            raise refusal(BROKEN_RULE, rule="must be left out for dataDisk, which is for all types")
        return type_id

    @field_validator("isSpotInstance")
    @classmethod
    def _spot(cls, spot: bool, info: ValidationInfo) -> bool:
        if spot and info.data.get("chargeMode") == DISK:
            raise refusal(BROKEN_RULE, rule="must be false for dataDisk")
        return spot

    @field_validator("bands")
    @classmethod
    def _tide(cls, bands: list[BandRequest], info: ValidationInfo) -> list[BandRequest]:
        if len(bands) > BANDS_MOST:
            raise refusal(BROKEN_RULE, rule=f"may hold at most {BANDS_MOST} bands")
        if bands and info.data.get("chargeMode") != ChargeMode.TIDE_PER_HOUR.value:
            raise refusal(BROKEN_RULE, rule="is for tidePerHour alone")
        return bands


class PriceFilter(Request):
    """Which prices: set from ``since`` on and before ``until``."""

    instanceTypeId: Annotated[str | None, Text()] = None
    region: Annotated[str | None, Text()] = None
    chargeMode: Annotated[str | None, Choice(MODES)] = None
    since: Since = None
    until: Since = None

    _order = field_validator("until")(not_before_since)


class PricesRequest(Request):
    """Body of POST /api/admin/prices."""

    pager: Pager
    filter: PriceFilter = PriceFilter()


class UserFilter(Request):
    """Which users: made from ``since`` on and before ``until``; ``username`` is a part of the name."""

    username: Annotated[str | None, Text()] = None
    since: Since = None
    until: Since = None

    _order = field_validator("until")(not_before_since)


class UsersRequest(Request):
    """Body of POST /api/admin/users."""

    pager: Pager
    filter: UserFilter = UserFilter()


class UserTransactionsRequest(Request):
    """Body of POST /api/admin/transactions."""

    userId: UserId = ""
    username: UserId = _username()
    pager: Pager
    filter: TransactionFilter = TransactionFilter()

    _whom = field_validator("username")(_needs_a_user)


class PostedAnswer(Answer):
    """What is in the ledger now; where the call was made before, what it wrote then."""

    currency: str
    transaction: TransactionRow


class MonthlyCreditAnswer(Answer):
    """Who is given how much each month."""

    userId: str
    username: str
    monthlyCredit: int | float
    currency: str


class PriceRow(Answer):
    """One price of the history. It holds from ``validFrom`` until there is a newer one of its kind.

    ``source`` is ``file`` for tidemill.toml and ``admin`` for the API. ``instanceTypeId`` is empty for
    dataDisk.
    """

    instanceTypeId: str
    region: str
    chargeMode: str
    isSpotInstance: bool
    price: int | float
    bands: list[PriceBand]
    timezone: str
    validFrom: datetime
    source: str

    @classmethod
    def of(
        cls,
        *,
        type_id: str,
        region_id: str,
        mode: str,
        is_spot: bool,
        amount: int,
        bands: Sequence[Band],
        zone: str,
        valid_from: datetime,
        source: str,
    ) -> PriceRow:
        return cls(
            instanceTypeId=type_id,
            region=region_id,
            chargeMode=mode,
            isSpotInstance=is_spot,
            price=units(amount),
            bands=[PriceBand.of(band) for band in bands],
            timezone=zone,
            validFrom=valid_from,
            source=source,
        )


class PriceSetAnswer(Answer):
    """The price that holds for launches from now on."""

    currency: str
    price: PriceRow


class PricesAnswer(Answer):
    """One page of all prices there ever were, newest first."""

    currency: str
    prices: list[PriceRow]
    pager: PagerInfo


class UserRow(Answer):
    """A user with what they own; the amounts as in /api/balance."""

    userId: str
    username: str
    isAdmin: bool
    createdAt: datetime
    balance: int | float
    availableBalance: int | float
    availableVoucherAmount: int | float
    availableCreditAmount: int | float
    held: int | float
    monthlyCredit: int | float

    @classmethod
    def of(cls, user: User, funds: Funds, monthly_credit: int) -> UserRow:
        return cls(
            userId=user.id,
            username=user.username,
            isAdmin=user.is_admin,
            createdAt=user.created_at,
            balance=units(funds.balance),
            availableBalance=units(funds.available_balance),
            availableVoucherAmount=units(funds.available_vouchers),
            availableCreditAmount=units(funds.available_credit),
            held=units(funds.held),
            monthlyCredit=units(monthly_credit),
        )


class UsersAnswer(Answer):
    """One page of the users, by name."""

    currency: str
    users: list[UserRow]
    pager: PagerInfo
