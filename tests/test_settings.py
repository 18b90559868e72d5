"""Settings come from one table, and say what is wrong with a bad one."""

from pathlib import Path

import pytest

from tidemill.model.errors import Misconfigured
from tidemill.settings import SETTINGS, Settings, load


def test_every_default_parses_and_every_setting_has_help() -> None:
    settings = Settings()
    for setting in SETTINGS:
        assert getattr(settings, setting.name) is not None
        assert setting.help
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_command_line_wins_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "tidemill.toml"
    file.write_text('port = 1\nhost = "file"\nbeat = 0.5\n[[image]]\nname = "x"\nreference = "y"\n')
    found = load(file, {"port": 3, "host": None}, {"TIDEMILL_PORT": "2", "TIDEMILL_HOST": "env"})
    assert (found.settings.port, found.settings.host, found.settings.beat) == (3, "env", 0.5)
    assert found.tables["image"] == [{"name": "x", "reference": "y"}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 'many'", "setting port"),
        ("node_ports = '9-5'", "31000-32767"),
        ("colour = 'red'", "unknown setting 'colour'"),
        ("port = ", "not valid TOML"),
        ("port = 70000", "65535"),
        ("port = true", "expected a number"),
        ("port = 8420.5", "whole number"),
        ("beat = 0", "setting beat"),
        ("beat = nan", "expected a number"),
        ("lease = 0", "setting lease"),
        ("driver_calls = 0", "1 or more"),
        ("cpu_overcommit = inf", "expected a number"),
        ("secure_cookie = 'ture'", "auto, true, false"),
        ("log_format = 'jsno'", "text, json"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tidemill.toml"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=says):
        load(file, {}, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot read"):
        load(tmp_path / "none.toml", {}, {})
