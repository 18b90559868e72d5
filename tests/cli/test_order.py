"""From flags and files to the body of a launch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidemill.cli import order
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.order import Said

WHOLE: dict[str, Any] = {
    "name": "test",
    "imageId": "i",
    "instanceTypeId": "t",
    "region": "r",
    "billing": {"chargeMode": "perHour", "duration": 1},
    "remoteStorages": [],
    "instanceConfiguration": {"enableCommonData": False, "enableDocker": False, "initScript": "true"},
    "nodePorts": [7891],
    "notYetKnown": {"deep": [1, None, 2.5]},
}


def test_a_whole_file_is_sent_as_it_is() -> None:
    assert order.body_of(Said(), WHOLE, None) == WHOLE
    assert list(order.body_of(Said(), WHOLE, None)) == list(WHOLE)


def test_flags_change_fields_of_a_file_and_nothing_beside_them() -> None:
    said = Said(name="other", mode="perWeek", duration=2, disk=5, ports=(80,), env={"A": "1"}, spot=True)
    found = order.body_of(said, {**WHOLE, "env": {"A": "0", "B": "2"}}, None)
    configuration = {**WHOLE["instanceConfiguration"], "extraDataDiskSizeDB": 5}
    assert found == {
        **WHOLE,
        "name": "other",
        "billing": {"chargeMode": "perWeek", "duration": 2},
        "instanceConfiguration": configuration,
        "nodePorts": [80],
        "env": {"A": "1", "B": "2"},
        "isSpotInstance": True,
    }


def test_one_without_a_name_gets_one() -> None:
    names = {
        order.body_of(Said(), {key: value for key, value in WHOLE.items() if key != "name"}, None)["name"]
        for _ in range(20)
    }
    assert len(names) > 10
    assert all(name.isascii() and 0 < len(name) < 40 for name in names)


@pytest.mark.parametrize(
    ("name", "text", "body"),
    [
        ("a.json", '{"a": {"b": [1, 2.5, null, true]}}', {"a": {"b": [1, 2.5, None, True]}}),
        ("a.yaml", "a:\n  b: [1, x]\nwhen: 2026-11-25\n", {"a": {"b": [1, "x"]}, "when": "2026-11-25"}),
        ("a", '\n {"a":\t1}', {"a": 1}),
        ("a.yml", "{a: 1}", {"a": 1}),
    ],
)
def test_files_of_both_kinds(tmp_path: Path, name: str, text: str, body: Any) -> None:
    (tmp_path / name).write_text(text)
    assert order.body_in(str(tmp_path / name)) == body


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.json", '{"a": 1', "line 1 column 8"),
        ("a.json", '{"a": 1, "a": 2}', '"a" is set twice'),
        ("a.yaml", "a: [1\nb: 2\n", "line 2"),
        ("a.yaml", "- 1\n", "does not hold the object"),
        ("none.yaml", None, "No such file"),
        ("a.yaml", b"\xff\xfe", "no text in UTF-8"),
        ("a.yaml", "a: &a [*a]\n", "what JSON cannot say"),
        ("a.yaml", "a: .nan\n", "what JSON cannot say"),
        ("a.yaml", "a: !!binary aGk=\n", "what JSON cannot say"),
        ("a.yaml", "[" * 5000, "what JSON cannot say"),
        ("a.yaml", 'a: "\\uD800"', "no Unicode"),
    ],
)
def test_a_file_that_is_none_says_why(
    tmp_path: Path, name: str, text: str | bytes | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(Failure, match=reason) as caught:
        order.body_in(str(tmp_path / name))
    assert caught.value.exit is Exit.USAGE


def test_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert order.body_in(str(tmp_path / "a.json")) == {"a": 1}


def test_a_name_that_is_no_text_is_a_command_that_was_typed_wrongly() -> None:
    with pytest.raises(Failure, match="The name is no text in UTF-8") as caught:
        order.body_of(Said(name="\udcff"), WHOLE, None)
    assert caught.value.exit is Exit.USAGE
    with pytest.raises(Failure, match="no length of time"):
        order.seconds("9" * 5000 + "d")
    with pytest.raises(Failure, match="no amount"):
        order.body_of(Said(max_spend="1e999999999"), WHOLE, None)


def test_variables_come_from_a_file_the_line_and_here(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# none\n\nA=1\nexport B = 2=3\nTOKEN\nC=file\n")
    here = {"TOKEN": "secret", "HOME": "/root"}
    found = order.environment(["C=line", "HOME", "EMPTY="], str(file), here)
    assert found == {"A": "1", "B": " 2=3", "TOKEN": "secret", "C": "line", "HOME": "/root", "EMPTY": ""}
    with pytest.raises(Failure, match="GONE is not set here"):
        order.environment(["GONE"], None, here)
    with pytest.raises(Failure, match="no text in UTF-8"):
        order.environment(["A"], None, {"A": "\udcff"})


def test_no_secret_is_in_what_is_said() -> None:
    assert "hidden" not in repr(Said(init="hidden", env={"A": "hidden"}))


@pytest.mark.parametrize(
    ("said", "means"), [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("45s", 45)]
)
def test_lengths_of_time(said: str, means: int) -> None:
    assert order.seconds(said) == means


@pytest.mark.parametrize("said", ["90", "", "2 h", "h", "-1h", "1.5h"])
def test_what_is_no_length_of_time(said: str) -> None:
    with pytest.raises(Failure, match="no length of time"):
        order.seconds(said)


def test_charge_modes_by_short_and_by_the_wires_word() -> None:
    words = ["hour", "TIDE", "day", "week", "month", "perHour", "tideperhour"]
    modes = ["perHour", "tidePerHour", "perDay", "perWeek", "perMonth", "perHour", "tidePerHour"]
    assert [order.charge_mode(word) for word in words] == modes
    with pytest.raises(Failure, match="'year'"):
        order.charge_mode("year")
