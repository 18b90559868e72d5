"""One instance, from its history and its terms alone, against what the ledger has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest

from tidemill.audit import times
from tidemill.audit.prices import HOUR, Rates, periods_later, rates
from tidemill.model.lifecycle import STATES, State, Wanted
from tidemill.store.auditing import EntryRow, EventRow, HoldRow, InstanceRow, MeterRow, PriceRow

REVENUE = "own/revenue"
HOURLY = ("perHour", "tidePerHour")
Says = Callable[[str], None]


@dataclass
class Posted:
    """A posting of an instance: its lines as one. ``to_revenue`` is what of it we earned."""

    id: str
    kind: str
    at: int
    user_id: str
    meter_id: int | None
    since: int | None
    until: int | None
    lines: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])

    @property
    def amount(self) -> int:
        return sum(amount for _, _, amount in self.lines)

    @property
    def to_revenue(self) -> int:
        return sum(amount for _, credit, amount in self.lines if credit == REVENUE)


def posting_of(line: EntryRow) -> Posted:
    """A posting from its first line, without any line yet."""
    return Posted(line.posting_id, line.kind, line.at, line.user_id, line.meter_id, line.since, line.until)


@dataclass
class Charged:
    """How far the charges of one meter go: until when, and what the time until then costs and brought."""

    meter: MeterRow
    rates: Rates
    until: int
    numerator: int = 0
    amount: int = 0


class Examined:
    """Takes an instance's postings in their order, and says at the end what does not agree.

    ``bounds`` are how many microseconds the clocks of servers may have been apart, and for how many a start
    sets money aside.
    """

    def __init__(
        self,
        instance: InstanceRow,
        history: Sequence[EventRow],
        meters: Sequence[MeterRow],
        holds: Sequence[HoldRow],
        prices: Sequence[PriceRow],
        bounds: tuple[int, int],
        says: Says,
    ) -> None:
        self.instance = instance
        self._history = history
        self._meters = meters
        self._holds = holds
        self._prices = [
            price
            for price in prices
            if (price.type_id, price.region_id, price.charge_mode, price.is_spot)
            == (instance.type_id, instance.region_id, instance.charge_mode, instance.is_spot)
        ]
        self._slack, self._held_for = bounds
        self._says = says
        self._terms: list[Posted] = []
        self._held: dict[str, list[Posted]] = {}
        row = next((price for price in self._prices if price.id == instance.tariff_id), None)
        self._zone = "UTC" if row is None else row.zone
        self._compute = Rates(0)
        if row is not None and instance.charge_mode in HOURLY:
            self._compute = rates(row.price_micro, row.bands, row.zone)
        if row is None and instance.tariff_id is not None:
            says(f"its price, {instance.tariff_id}, is none of what was ever offered of its type")
        if row is not None and row.price_micro != instance.price_micro:
            says(f"it says that it costs {instance.price_micro}, and its price is {row.price_micro}")
        self._disk = Rates(instance.disk_price_micro * instance.data_disk_gb)
        self._charged = {
            meter.id: Charged(meter, self._disk if meter.kind == "disk" else self._compute, meter.opened_at)
            for meter in meters
        }

    def take(self, posting: Posted) -> None:
        """The next posting of it."""
        if posting.user_id != self.instance.user_id:
            self._says(f"{posting.id} is another user's")
        if posting.kind == "charge":
            self._charge(posting)
        elif posting.kind == "term":
            self._terms.append(posting)
        elif posting.kind in {"hold", "release"}:
            self._held.setdefault(posting.id.partition(":")[2], []).append(posting)

    def _charge(self, posting: Posted) -> None:
        charged = self._charged.get(posting.meter_id or -1)
        if charged is None or posting.since is None or posting.until is None:
            self._says(f"{posting.id} charges time that no meter ran")
            return
        if posting.since < charged.until:
            self._says(f"{posting.id} charges time that was charged before")
        if posting.to_revenue != posting.amount:
            self._says(f"{posting.id} charges {posting.amount}, and {posting.to_revenue} came in")
        charged.numerator += charged.rates.numerator(charged.until, posting.until)
        charged.until = max(charged.until, posting.until)
        charged.amount += posting.to_revenue
        due = charged.numerator // HOUR
        if charged.amount != due:
            self._says(
                f"up to {posting.id} its meter {charged.meter.id} was charged {charged.amount}, "
                f"and its time costs {due}"
            )

    def end(self) -> None:
        """There are no more postings."""
        for kind, shown in (("compute", times.billed), ("disk", times.stored)):
            metered = [meter for meter in self._meters if meter.kind == kind]
            if kind == "compute" or self._disk.base:
                self._met(kind, metered, shown(self._history))
            elif metered:
                self._says("its disk is metered, and costs nothing")
            self._once(metered)
        for charged in self._charged.values():
            self._ended(charged)
        for hold in self._holds:
            self._settled(hold, self._held.pop(hold.id, []))
        for id in self._held:
            self._says(f"{id} was set aside or released, and is no hold")
        if self.instance.charge_mode not in HOURLY and self.instance.tariff_id is not None:
            self._in_terms()

    def _met(self, kind: str, meters: Sequence[MeterRow], shown: Sequence[times.Time]) -> None:
        """Each meter ran inside the time that the history shows, and each such time has one."""
        for meter, time in zip_longest(meters, shown):
            if meter is None or time is None:
                self._says(f"its history has {len(shown)} times for {kind}, and it has {len(meters)} meters")
                return
            last = meter.closed_at
            if meter.opened_at != time.since or (last is None) != (time.until is None):
                self._says(f"its meter {meter.id} did not begin or end as its history says")
            elif last is not None and time.until is not None:
                if not meter.opened_at <= last <= max(meter.opened_at, time.until) + self._slack:
                    self._says(f"its meter {meter.id} ran longer than its history says")
                if kind == "disk" and last < time.until - self._slack:
                    self._says(f"its meter {meter.id} ran shorter than its history says")

    def _once(self, meters: Sequence[MeterRow]) -> None:
        """No time was charged by one meter that another charged before.

        Where the history's own times go back, a clock was set back, and hours of the same name were two.
        """
        if any(after.at < before.at for before, after in pairwise(self._history)):
            return
        ordered = sorted(meters, key=lambda meter: (meter.opened_at, meter.id))
        for before, after in pairwise(self._charged[meter.id] for meter in ordered):
            if before.until > after.meter.opened_at < after.until:
                self._says(f"its meters {before.meter.id} and {after.meter.id} charged the same time")

    def _ended(self, charged: Charged) -> None:
        """What is closed was charged to its end; what is open, no further than it was seen."""
        meter = charged.meter
        if meter.closed_at is None:
            seen = self.instance.seen_at
            if meter.seen_until is not None and meter.kind == "compute":
                seen = meter.seen_until
            if charged.until > max(meter.opened_at, (seen or 0) + self._slack):
                self._says(f"its meter {meter.id} was charged for time in which nobody saw it")
            return
        if charged.until > meter.closed_at:
            self._says(f"its meter {meter.id} was charged for time after it ended")
            return
        if meter.waits:
            return
        due = (charged.numerator + charged.rates.numerator(charged.until, meter.closed_at)) // HOUR
        if charged.amount != due:
            self._says(f"its meter {meter.id} was charged {charged.amount} in all, and its time costs {due}")

    def _settled(self, hold: HoldRow, postings: Sequence[Posted]) -> None:
        """Held once and released once, or held still because it is to run."""
        if hold.amount_micro != sum(amount for _, amount in hold.parts):
            self._says(f"the parts of hold {hold.id} are not {hold.amount_micro}")
        held = f"{hold.user_id}/held"
        put = [one for one in postings if one.kind == "hold"]
        back = [one for one in postings if one.kind == "release"]
        parts = sorted((account, amount) for account, amount in hold.parts)
        if [
            sorted((debit, amount) for debit, credit, amount in one.lines if credit == held) for one in put
        ] != [parts]:
            self._says(f"hold {hold.id} was not set aside once, as it says")
        wanted = [] if hold.ended_at is None else [parts]
        if [
            sorted((credit, amount) for debit, credit, amount in one.lines if debit == held) for one in back
        ] != (wanted):
            self._says(f"hold {hold.id} was released {len(back)} times, or not as it was set aside")
        runs = STATES[State(self.instance.state)].wanted is Wanted.RUNNING
        if hold.ended_at is None and hold.settle_at is None and not runs:
            self._says(f"hold {hold.id} is kept, and it is {self.instance.state}")
        if hold.amount_micro not in self._to_hold(hold.held_at):
            self._says(f"hold {hold.id} is {hold.amount_micro} instead of {self._to_hold(hold.held_at)}")

    def _to_hold(self, at: int) -> set[int]:
        """What may have been set aside at an instant: the first hour, or a term at the prices of then."""
        if self.instance.charge_mode in HOURLY:
            return {
                sum(each.numerator(at, at + self._held_for) // HOUR for each in (self._compute, self._disk))
            }
        return self._of_term(at)

    def _of_term(self, at: int) -> set[int]:
        """What a term costs at each price that held about then."""
        before = [price for price in self._prices if price.valid_from <= at - self._slack]
        about = [price for price in self._prices if abs(price.valid_from - at) <= self._slack]
        return {price.price_micro * self.instance.duration for price in (*before[-1:], *about)}

    def _in_terms(self) -> None:
        """Terms begin when it is reachable outside one, or where the one before ended; each was paid once."""
        began = ends = None
        bought = {posting.since: posting for posting in self._terms}
        if len(bought) != len(self._terms):
            self._says("one of its terms was paid twice")
        captured = [hold for hold in self._holds if hold.capture]
        periods = 0
        for line in self._history:
            starts = line.to_state == State.RUNNING != line.from_state and (ends is None or line.at >= ends)
            if starts:
                hold = next(iter(captured), None)
                if hold is not None and (hold.held_at <= line.at + self._slack):
                    captured.remove(hold)
                elif ends is not None and self.instance.price_micro:
                    continue  # nothing was set aside for another one: what runs is stopped, or renewed
                else:
                    hold = None
                began, periods = line.at, self.instance.duration
                ends = self._term_from(began, periods)
                due = 0 if hold is None else hold.amount_micro
                if hold is None or hold.ended_at is not None:
                    self._paid(bought.pop(began, None), began, ends, {due})
            elif line.event == "renewed" and began is not None and ends is not None:
                since = ends
                while ends <= since:
                    periods += self.instance.duration
                    ends = self._term_from(began, periods)
                self._paid(bought.pop(since, None), since, ends, self._of_term(line.at))
        for posting in bought.values():
            self._says(f"{posting.id} is for a term that its history does not have")
        if self.instance.term_ends_at != ends:
            self._says(f"its term ends at {self.instance.term_ends_at}, and what was paid ends at {ends}")

    def _term_from(self, began: int, periods: int) -> int:
        return periods_later(began, self.instance.charge_mode, periods, self._zone)

    def _paid(self, posting: Posted | None, since: int, until: int, amounts: set[int]) -> None:
        paid = 0 if posting is None else posting.to_revenue
        if paid not in amounts:
            self._says(f"its term from {since} was paid with {paid} instead of {_any(amounts)}")
        if posting is not None and (posting.since, posting.until) != (since, until):
            self._says(f"{posting.id} is not for the time from {since} to {until}")


def _any(amounts: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(amounts))) or "nothing"
