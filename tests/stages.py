"""What each folder of tests took: a table at the end, below the stages that scripts/test went through before.

Seconds of the tests add up over the workers, so they are more than went by. Processor seconds are those of
the workers and of the processes that they have seen the end of; the engine and PostgreSQL are not in them.
"""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest

CPU = "processor seconds"
BEFORE = "TIDEMILL_STAGES"  # of scripts/test: a line for each, its name and both of its figures between tabs
_begun = pytest.StashKey[float]()


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_begun] = _cpu()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "teardown":
        report.user_properties.append((CPU, _cpu() - item.stash[_begun]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [line.split("\t") for line in os.environ.get(BEFORE, "").splitlines()]
    took: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    for report in reports:
        if isinstance(report, pytest.TestReport):
            folder = took["/".join(report.nodeid.split("::")[0].split("/")[:-1][:2])]
            folder[0] += report.duration
            folder[1] += sum(seconds for name, seconds in report.user_properties if name == CPU)
    for name, both in sorted(took.items(), key=lambda each: -each[1][0]):
        rows.append([name, *(f"{seconds:.0f}" for seconds in both)])
    if rows:
        terminalreporter.section("what each stage took", sep="-")
        terminalreporter.line(f"{'':24}{'seconds':>10}{'processor':>12}")
        for name, seconds, cpu in rows:
            terminalreporter.line(f"{name:24}{seconds:>10}{cpu:>12}")
