"""Tables, machine forms, times and money, and what a typed name means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import yaml

from tidemill.cli import table
from tidemill.cli.failures import Failure
from tidemill.cli.output import Form, show_one, show_rows, watched
from tidemill.cli.resolving import resolved
from tidemill.cli.table import Column
from tidemill.cli.telling import ago, money, span, when

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
COLUMNS = [
    Column("NAME", lambda row: row["name"]),
    Column("ID", lambda row: row["id"], firm=True),
    Column("COUNT", lambda row: str(row["count"]), right=True),
]
ROWS = [
    {"name": "a rather long name", "id": "notebook-1", "count": 7},
    {"name": "数据 set", "id": "notebook-22", "count": 12},
]


def test_a_pipe_gets_everything_aligned() -> None:
    assert table.lines(ROWS, COLUMNS) == [
        "NAME                ID           COUNT",
        "a rather long name  notebook-1       7",
        "数据 set            notebook-22     12",
    ]


def test_a_narrow_terminal_gets_cut_names_and_whole_ids() -> None:
    shown = table.lines(ROWS, COLUMNS, width=30)
    assert shown[1] == "a rather …  notebook-1       7"
    assert max(table.wide(line) for line in shown) <= 30
    assert "notebook-22" in table.lines(ROWS, COLUMNS, width=5)[2]


def test_colours_are_around_what_is_aligned() -> None:
    status = [Column("STATUS", lambda row: row), Column("X", lambda _: "x")]
    assert table.lines(["Running", "PullingImage 4%"], status, coloured=True)[1:] == [
        "\x1b[32mRunning\x1b[0m          x",
        "\x1b[33mPullingImage 4%\x1b[0m  x",
    ]


def test_a_name_cannot_move_the_cursor() -> None:
    assert table.lines(["\x1b[2Jx\u202e"], [Column("N", lambda row: row)]) == ["N", "�[2Jx�"]


@pytest.mark.parametrize(
    ("no_color", "term", "expected"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)]
)
def test_colours_are_for_those_who_can_see_them(no_color: str, term: str, expected: bool) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert table.is_coloured(Terminal(), {"NO_COLOR": no_color, "TERM": term}) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [Form.JSON, Form.YAML])
def test_programs_get_the_rows_themselves(form: Form, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "x", "at": NOW, "cost": Decimal("0.000123"), "count": Decimal(3)}]
    show_rows(rows, COLUMNS, form, name=lambda row: str(row["name"]), empty="none")
    read = (json.loads if form is Form.JSON else yaml.safe_load)(capsys.readouterr().out)
    assert read == [{"name": "x", "at": NOW.isoformat(), "cost": 0.000123, "count": 3}]


@pytest.mark.parametrize(
    ("form", "out", "err"), [(Form.TABLE, "", "none\n"), (Form.JSON, "[]\n", ""), (Form.NAME, "", "")]
)
def test_nothing(form: Form, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_rows([], COLUMNS, form, name=str, empty="none")
    assert capsys.readouterr() == (out, err)


def test_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    facts = [("name", "x"), ("reason", ""), ("at", "now")]
    show_one({"name": "x"}, facts, Form.TABLE, name=lambda row: row["name"])
    assert capsys.readouterr().out == "name  x\nat    now\n"


def test_watching_looks_until_it_is_interrupted() -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(0.5, look)
    with pytest.raises(Failure, match="at least"):
        watched(0.1, look)
    assert len(looks) == 2


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "now"), (50, "50s ago"), (119, "119s ago"), (120, "2m ago"), (7199, "119m ago"), (7200, "2h ago"),
     (86400 * 9, "9d ago"), (-7300, "in 2h")],
)  # fmt: skip
def test_how_long_ago(seconds: int, told: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == told
    assert ago(None, NOW) == "-"
    assert span(86400) == "24h"


@pytest.mark.parametrize(
    ("amount", "told"),
    [(1.5, "1.50 EUR"), (0.000123, "0.000123 EUR"), (1e-06, "0.000001 EUR"), (12, "12.00 EUR"),
     (-3.1, "-3.10 EUR"), (Decimal("1000000.100"), "1000000.10 EUR")],
)  # fmt: skip
def test_money_has_every_digit(amount: float | Decimal, told: str) -> None:
    assert money(amount, "EUR") == told


THINGS = [
    ("notebook-aa11", "train"),
    ("notebook-ab22", "train-2"),
    ("notebook-cd33", "eval"),
    ("notebook-ef44", "eval"),
]


@pytest.mark.parametrize(
    ("said", "id"),
    [("notebook-aa11", "notebook-aa11"), ("train", "notebook-aa11"), ("train-", "notebook-ab22"),
     ("notebook-c", "notebook-cd33"), ("cd", "notebook-cd33"), ("ef44", "notebook-ef44")],
)  # fmt: skip
def test_a_name_an_id_or_a_beginning_of_either(said: str, id: str) -> None:
    assert _resolved(said, THINGS) == id


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("eval", "not the only"),
        ("tra", "train-2 .notebook-ab22."),
        ("x", "No instance is called 'x'"),
        ("", "No instance"),
    ],
)
def test_a_name_that_means_none_or_several(said: str, why: str) -> None:
    with pytest.raises(Failure, match=why) as failed:
        _resolved(said, THINGS)
    assert failed.value.exit == 4
    with pytest.raises(Failure, match="there is no instance"):
        _resolved(said, [])


def _resolved(said: str, things: Sequence[tuple[str, str]]) -> str:
    found = resolved(
        said, things, noun="instance", id=lambda each: each[0], name=lambda each: each[1], prefix="notebook-"
    )
    return found[0]


@pytest.mark.parametrize("said", [None, "", "soon", 7, "2030-01-31T12:00:00", {}])
def test_what_is_no_instant_is_none(said: object) -> None:
    assert when(said) is None


def test_an_instant_of_the_wire() -> None:
    assert when("2030-01-31T12:00:00Z") == when("2030-01-31T13:00:00.000+01:00") == NOW
