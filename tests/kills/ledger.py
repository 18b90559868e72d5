"""What the clients asked for and were told, kept outside of the server: the end is compared with it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Literal

Asked = Literal["running", "stopped", "gone"]


@dataclass
class Written:
    """A file that somebody wrote into an instance, on both of its disks or on the one it has."""

    name: str
    begun: float
    on_data_disk: bool


@dataclass
class Imitation:
    """A container that somebody else made and that looks like one of the server's.

    ``bears`` is the instance that its label names, "" for none; ``is_labelled`` is False for one that only
    has such a name: that one is nobody's business. ``is_made`` is known when the engine said so.
    """

    bears: str
    is_labelled: bool
    is_made: bool = False


@dataclass
class Order:
    """One launch with its Idempotency-Key, and what became of it.

    Attributes:
        id: the instance, once the client was told.
        asked: what its owner asked for last and was promised.
        removed: when its containers were last removed behind the server's back (monotonic seconds).
    """

    tenant: str
    name: str
    key: str
    disk: int
    id: str = ""
    asked: Asked = "running"
    written: list[Written] = field(default_factory=list[Written])
    removed: float = 0.0

    def kept(self) -> list[Written]:
        """What must still be on its system disk: removing a container takes that with it."""
        return [each for each in self.written if each.begun > self.removed]

    def kept_on_data_disk(self) -> list[Written]:
        return [each for each in self.written if each.on_data_disk]


class Ledger:
    """All orders of all clients, what is still to be done, and what was counted on the way."""

    def __init__(self, operations: int, seconds: float = float("inf")) -> None:
        self._left = operations
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()
        self.orders: list[Order] = []
        self.imitations: dict[str, Imitation] = {}
        self.problems: list[str] = []
        self.counted: Counter[str] = Counter()

    def take(self) -> bool:
        """One more operation, unless all have been done, the time is over, or something went wrong."""
        with self._lock:
            if self._left <= 0 or self.problems or time.monotonic() > self._until:
                return False
            self._left -= 1
            return True

    def open(self, order: Order) -> Order:
        with self._lock:
            self.orders.append(order)
        return order

    def count(self, what: str) -> None:
        with self._lock:
            self.counted[what] += 1

    def complain(self, problem: str) -> None:
        with self._lock:
            self.problems.append(problem)

    def by_id(self) -> dict[str, Order]:
        with self._lock:
            return {order.id: order for order in self.orders if order.id}

    def bystanders(self, ids: Container[str] = ()) -> dict[str, Imitation]:
        """Containers of others that may be there while the instances ``ids`` are."""
        return {
            name: each for name, each in self.imitations.items() if not each.is_labelled or each.bears in ids
        }

    def removed(self, id: str) -> None:
        """The containers of ``id`` were removed behind the server's back, just now."""
        order = self.by_id().get(id)
        if order is not None:
            order.removed = time.monotonic()
