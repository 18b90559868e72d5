"""What the server counts and times for its operator, in Prometheus' words.

One :class:`Metrics` for each server, handed to whoever has something to count: two servers in one process
count apart. Counting is an addition in memory, made on the event loop alone; what can be asked of the
database is read when somebody looks (``actions/metrics.py``). Labels are words of ours and of the
operator (regions, types, models): their number is bounded, and none names a tenant, an instance or a
secret. docs/metrics.md is generated from the attributes of :class:`Metrics`.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from time import perf_counter
from types import TracebackType

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidemill.model.errors import Unavailable

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CALLS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LAUNCHES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

OTHER = "other"  # for a word that somebody else made up
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REASONS = frozenset(
    {
        "Refused",
        "NoRoom",
        "Overdue",
        "Exited",
        "Killed",
        "OOMKilled",
        "StartError",
        "Disappeared",
        "LostInRestore",
    }
)
OUTCOMES = {"Refused": "refused", "NoRoom": "noRoom", "Unreachable": "unreachable"}


class Family:
    """One name, with a value for every set of its labels."""

    kind = ""

    def __init__(self, name: str, labels: str, help: str) -> None:
        self.name = name
        self.labels = tuple(labels.split())
        self.help = help

    def collect(self, regions: Mapping[str, str]) -> Metric:
        """As prometheus-client wants it, regions by their names."""
        raise NotImplementedError

    def _named(self, values: tuple[str, ...], regions: Mapping[str, str]) -> list[str]:
        return [
            regions.get(value, value) if label == "region" else value
            for label, value in zip(self.labels, values, strict=True)
        ]


class Counter(Family):
    kind = "counter"

    def __init__(self, name: str, labels: str, help: str) -> None:
        super().__init__(name, labels, help)
        self._values: dict[tuple[str, ...], float] = {} if self.labels else {(): 0.0}

    def add(self, *labels: str) -> None:
        self._values[labels] = self._values.get(labels, 0.0) + 1.0

    def collect(self, regions: Mapping[str, str]) -> Metric:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in self._values.items():
            family.add_metric(self._named(labels, regions), value)
        return family


class Gauge(Family):
    kind = "gauge"

    def __init__(self, name: str, labels: str, help: str) -> None:
        super().__init__(name, labels, help)
        self._values: dict[tuple[str, ...], float] = {}

    def set(self, value: float, *labels: str) -> None:
        self._values[labels] = value

    def clear(self) -> None:
        """Nothing is known (any more)."""
        self._values.clear()

    def collect(self, regions: Mapping[str, str]) -> Metric:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in self._values.items():
            family.add_metric(self._named(labels, regions), value)
        return family


class Histogram(Family):
    kind = "histogram"

    def __init__(self, name: str, labels: str, help: str, buckets: tuple[float, ...]) -> None:
        super().__init__(name, labels, help)
        self._bounds = buckets
        # For each set of labels: how many in each bucket (the last has no bound), and their sum.
        self._values: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        found = self._values.get(labels)
        if found is None:
            found = self._values[labels] = ([0] * (len(self._bounds) + 1), [0.0])
        found[0][bisect_left(self._bounds, seconds)] += 1
        found[1][0] += seconds

    def collect(self, regions: Mapping[str, str]) -> Metric:
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, (counts, total) in self._values.items():
            buckets: list[tuple[str, float]] = []
            so_far = 0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
                so_far += count
                buckets.append((bound, float(so_far)))
            family.add_metric(self._named(labels, regions), buckets, sum_value=total[0])
        return family


class Metrics(Collector):
    """Everything that one server counts. ``regions`` are names by id; a region without one shows its id."""

    def __init__(self, *, version: str = "", regions: Mapping[str, str] | None = None) -> None:
        self.regions = dict(regions or {})
        self.build = Gauge("tidemill_build_info", "version python", "1, with what is running")
        self.build.set(1.0, version, platform.python_version())
        self.requests = Counter("tidemill_http_requests", "route method status", "requests answered")
        self.request_seconds = Histogram(
            "tidemill_http_request_duration_seconds",
            "route method",
            "from the arrival of a request to the beginning of its answer",
            QUICK,
        )
        self.login_failures = Counter(
            "tidemill_login_failures", "reason", "logins that failed: wrongPassword, or refused unheard"
        )
        self.launches = Counter("tidemill_launches", "region", "launches accepted")
        self.refused_launches = Counter("tidemill_launches_refused", "error", "launches refused, by error")
        self.launch_seconds = Histogram(
            "tidemill_launch_duration_seconds",
            "region",
            "from the launch of an instance to the first time it is Running",
            LAUNCHES,
        )
        self.moves = Counter(
            "tidemill_instance_moves", "region event state", "moves of instances: by what, to which state"
        )
        self.failures = Counter(
            "tidemill_instance_failures",
            "region reason",
            "instances that met trouble, by the reason they show",
        )
        self.passes = Histogram(
            "tidemill_reconcile_pass_duration_seconds",
            "region",
            "passes of the loop, without the work begun",
            QUICK,
        )
        self.engine_up = Gauge("tidemill_engine_up", "region", "whether the engine answered when last asked")
        self.calls = Histogram(
            "tidemill_driver_call_duration_seconds",
            "region verb outcome",
            "calls of a driver: ok, refused, noRoom, unreachable, unanswered (given up) or failed",
            CALLS,
        )
        self.transactions = Histogram(
            "tidemill_database_transaction_duration_seconds",
            "kind",
            "transactions, with the wait for their turn",
            QUICK,
        )
        self.database_errors = Counter(
            "tidemill_database_errors",
            "kind",
            "transactions that the database did not answer or could not write",
        )
        self.orphans_found = Counter(
            "tidemill_orphans_found", "region kind", "things found in an engine that no instance wants"
        )
        self.orphans_removed = Counter(
            "tidemill_orphans_removed", "region kind", "of these, removed after their grace"
        )
        self.orphan_failures = Counter(
            "tidemill_orphan_removals_failed",
            "region kind",
            "removals that the engine refused or did not answer",
        )
        # Read from the database when somebody looks, the same on every server of it:
        self.database_up = Gauge("tidemill_database_up", "", "whether the database answers")
        self.servers = Gauge("tidemill_servers", "role", "servers that are there")
        self.instances = Gauge(
            "tidemill_instances",
            "region type state",
            "instances, without Released ones; unreadable: left alone, see tidemill doctor",
        )
        self.oldest_due = Gauge(
            "tidemill_reconcile_oldest_due_seconds", "region", "for how long the oldest due work has waited"
        )
        self.leases = Gauge("tidemill_leases", "region", "instances that some server holds a lease on")
        self.devices = Gauge(
            "tidemill_devices",
            "region model state",
            "accelerators: free, held, or missing from their machine",
        )
        self.cpu = Gauge(
            "tidemill_cpu_cores", "region state", "cores of the machines: given, or free to give"
        )
        self.memory = Gauge(
            "tidemill_memory_bytes", "region state", "memory of the machines: given, or free to give"
        )
        self.orphans = Gauge(
            "tidemill_orphans",
            "region",
            "things in an engine that no instance wants and that are still there",
        )
        self.held = Gauge(
            "tidemill_orphans_held", "", "1 while orphans are only reported, until an operator lets them go"
        )
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    @property
    def families(self) -> list[Family]:
        return [family for family in vars(self).values() if isinstance(family, Family)]

    def collect(self) -> Iterable[Metric]:
        return [family.collect(self.regions) for family in self.families]

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        method = method if method in METHODS else OTHER
        self.requests.add(route, method, str(status))
        self.request_seconds.observe(seconds, route, method)

    def failed(self, region: str, reason: str) -> None:
        """An instance shows ``reason`` for not being as wanted."""
        self.failures.add(region, reason if reason in REASONS else OTHER)

    def call(self, region: str, verb: str) -> _Call:
        """Time a driver's call; what it raises says how it ended."""
        return _Call(self, region, verb)

    def transaction(self, kind: str) -> _Transaction:
        """Time a transaction that is waited for; what its work raises is no error of the database's."""
        return _Transaction(self, kind)

    def passing(self, region: str) -> _Pass:
        """Time a pass of a loop."""
        return _Pass(self, region)


class _Timed:
    """A stretch of time, and what is to be counted at its end; a class costs less than a generator."""

    __slots__ = ("_began", "_labels", "_metrics")

    def __init__(self, metrics: Metrics, *labels: str) -> None:
        self._metrics = metrics
        self._labels = labels
        self._began = perf_counter()

    def __enter__(self) -> None:
        return


class _Call(_Timed):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            outcome = "ok"
        elif issubclass(kind, Exception):
            outcome = OUTCOMES.get(kind.__name__, "failed")
        else:  # its caller gave up
            outcome = "unanswered"
        self._metrics.calls.observe(perf_counter() - self._began, *self._labels, outcome)


class _Transaction(_Timed):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Unavailable):
            self._metrics.database_errors.add(*self._labels)
        self._metrics.transactions.observe(perf_counter() - self._began, *self._labels)


class _Pass(_Timed):
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.passes.observe(perf_counter() - self._began, *self._labels)
