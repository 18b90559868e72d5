"""The table of what each stage took: what scripts/test did before, then the folders, the dearest first."""

from __future__ import annotations

from typing import Any

import pytest

from tests import stages


class Terminal:
    def __init__(self, reports: list[pytest.TestReport]) -> None:
        self.stats: dict[str, list[Any]] = {"passed": reports, "deselected": ["not a report"]}
        self.lines: list[str] = []

    def section(self, title: str, **_: Any) -> None:
        self.lines.append(title)

    def line(self, text: str) -> None:
        self.lines.append(text)


def _report(file: str, when: str, seconds: float, cpu: float | None = None) -> pytest.TestReport:
    properties = [] if cpu is None else [(stages.CPU, cpu)]
    return pytest.TestReport(
        nodeid=f"{file}::test", location=(file, 0, "test"), keywords={}, outcome="passed", longrepr=None,
        when=when, duration=seconds, user_properties=properties,
    )  # type: ignore[arg-type]  # fmt: skip


def test_folders_add_up_below_the_stages_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stages.BEFORE, "Types\t16\t14\n")
    terminal = Terminal(
        [
            _report("tests/test_logs.py", "call", 1),
            _report("tests/store/test_races.py", "setup", 2),
            _report("tests/drivers/docker/test_disks.py", "call", 30),
            _report("tests/drivers/docker/test_disks.py", "teardown", 5, 7.4),
            _report("tests/drivers/simulated/test_dials.py", "teardown", 1, 1),
        ]
    )
    stages.pytest_terminal_summary(terminal)
    rows = [line.split() for line in terminal.lines[2:]]
    assert rows == [
        ["Types", "16", "14"],
        ["tests/drivers", "36", "8"],
        ["tests/store", "2", "0"],
        ["tests", "1", "0"],
    ]
