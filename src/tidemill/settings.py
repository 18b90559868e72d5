"""Every setting, in one table: name, default, parser, help.

A setting comes from the command line, else from the environment (``TIDEMILL_<NAME>``), else from
``tidemill.toml``, else from here. docs/settings.md is generated from this table. Nothing is read
at import; :func:`load` is called once, by the composition root.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tidemill.model.errors import Misconfigured
from tidemill.model.money import to_micro

OWN_FILE = "tidemill.toml"  # of the data folder, where no other is named
LEAST_SECONDS = 0.01  # of what is done again and again


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    default: Any
    parse: Callable[[Any], Any]
    help: str


def _number(value: Any) -> Decimal:
    """A finite number, also as text (the environment has nothing else)."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    try:
        number = Decimal(str(value).strip())
    except ArithmeticError:
        raise ValueError("expected a number") from None
    if not number.is_finite():
        raise ValueError("expected a number")
    return number


def _seconds(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("expected a number of seconds, 0 or more")
    return float(number)


def _some_seconds(value: Any) -> float:
    number = _seconds(value)
    if number < LEAST_SECONDS:
        raise ValueError(f"expected a number of seconds, {LEAST_SECONDS} or more")
    return number


def _port_range(value: Any) -> tuple[int, int]:
    first, _, last = str(value).partition("-")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise ValueError("expected two ports such as 31000-32767")
    return low, high


def _hours(value: Any) -> tuple[int, ...]:
    """Whole hours, the most first."""
    return tuple(sorted({_some(word) for word in _words(value)}, reverse=True))


def _currency(value: Any) -> str:
    code = str(value)
    if len(code) != 3 or not code.isascii() or not code.isalpha() or not code.isupper():
        raise ValueError("expected an ISO 4217 code such as EUR")
    return code


def _price(value: Any) -> int:
    """An amount of the currency in micro-units."""
    return to_micro(_number(value))


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(word for word in value.replace(",", " ").split() if word)
    return (str(value),) if isinstance(value, int | Decimal) else tuple(str(word) for word in value)


def _share(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("expected a number above 0")
    return float(number)


def _count(value: Any) -> int:
    number = _number(value)
    if number < 0 or number != int(number):
        raise ValueError("expected a whole number, 0 or more")
    return int(number)


def _some(value: Any) -> int:
    number = _count(value)
    if number < 1:
        raise ValueError("expected a whole number, 1 or more")
    return number


def _port(value: Any) -> int:
    number = _some(value)
    if number > 65535:
        raise ValueError("expected a port from 1 to 65535")
    return number


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        word = str(value).lower() if isinstance(value, bool) else str(value)
        if word not in words:
            raise ValueError("expected one of: " + ", ".join(words))
        return word

    return parse


SETTINGS: tuple[Setting, ...] = (
    Setting("data_dir", "/var/lib/tidemill", Path, "folder for the database, keys, disks and the guest"),
    Setting(
        "role",
        "all",
        _one_of("all", "api", "loop"),
        "what this server does: all, or the api or the loop alone (PostgreSQL)",
    ),
    Setting("database_url", "", str, "SQLAlchemy URL; empty for SQLite in the data folder"),
    Setting(
        "database_connections", 8, _some, "connections of this server to PostgreSQL; half read, half write"
    ),
    Setting("host", "0.0.0.0", str, "address the API listens on"),  # noqa: S104 - a default to be reachable
    Setting("port", 8420, _port, "port the API listens on"),
    Setting(
        "public_url", "", str, "how browsers reach the API, such as https://gpu.example.org; names its origin"
    ),
    Setting(
        "instance_url",
        "",
        str,
        "how instances reach the API, for those launched with instanceKey; empty for public_url",
    ),
    Setting("trusted_proxies", "", _words, "addresses of reverse proxies whose X-Forwarded-For is believed"),
    Setting(
        "deployment", "", str, "label on everything made in an engine; empty for one made at first start"
    ),
    Setting("region_name", "local", str, "name of the region when tidemill.toml lists none"),
    Setting("ssh_address", "", str, "host name that users ssh to; empty for this machine's address"),
    Setting("publish_address", "0.0.0.0", str, "address that node ports are published on"),  # noqa: S104
    Setting("node_ports", "31000-32767", _port_range, "range that node ports are given from"),
    Setting("driver", "docker", str, "what runs instances: docker or simulated"),
    Setting("docker_url", "unix:///var/run/docker.sock", str, "where the container engine listens"),
    Setting("tenant_networks", "10.213.0.0/16", str, "address pool for the tenants' private networks"),
    Setting("stop_grace", 10.0, _seconds, "seconds a stopping instance gets before it is killed"),
    Setting("simulated_nodes", 1, _count, "nodes of the simulated driver (64 cores, 512 GiB, 8 GPUs each)"),
    Setting(
        "simulated_folder",
        "",
        str,
        "folder that the simulated engine is kept in, for servers that share it; empty for one in the data "
        "folder; memory for none",
    ),
    Setting("simulated_pull_seconds", 4.0, _seconds, "seconds that the simulated engine takes for an image"),
    Setting("simulated_start_seconds", 2.0, _seconds, "the same for a start; each instance has its own pace"),
    Setting("simulated_stop_seconds", 1.0, _seconds, "the same for a stop"),
    Setting(
        "simulated_faults",
        "",
        str,
        "what goes wrong there, as dials (docs/drivers.md) and their share of the calls: "
        "slow_seconds=0.1:30 refuses=0.01",
    ),
    Setting("cpu_overcommit", 1.0, _share, "how many times each core of a node may be given out"),
    Setting("memory_reserve_mb", 512, _count, "memory of each node that is never given out, in MiB"),
    Setting("beat", 2.0, _some_seconds, "seconds between passes of the loop when nothing rings"),
    Setting("full_pass", 60.0, _some_seconds, "seconds between passes that look at every instance"),
    Setting(
        "lease",
        5.0,
        _some_seconds,
        "seconds without a sign of life after which a server's work is taken over",
    ),
    Setting("driver_calls", 8, _some, "driver calls that run at the same time"),
    Setting("driver_patience", 48.0, _some_seconds, "seconds that one call of a driver may take"),
    Setting("initializing_deadline", 300.0, _seconds, "seconds that Initializing may last"),
    Setting("pulling_deadline", 3600.0, _seconds, "seconds that PullingImage may last"),
    Setting("starting_deadline", 300.0, _seconds, "seconds that Starting may last"),
    Setting("restarting_deadline", 900.0, _seconds, "seconds that Restarting may last"),
    Setting("stopping_deadline", 120.0, _seconds, "seconds after which a stop that is not confirmed says so"),
    Setting("terminating_deadline", 120.0, _seconds, "the same for a terminate"),
    Setting("restart_pause", 1.0, _seconds, "pause before an instance that died is started again; doubles"),
    Setting("restart_pause_most", 300.0, _seconds, "the longest such pause"),
    Setting("restart_quiet", 600.0, _seconds, "seconds of running after which such pauses begin anew"),
    Setting(
        "orphan_grace", 60.0, _seconds, "seconds before something labelled ours that nobody wants is removed"
    ),
    Setting("quota_instances", 0, _count, "instances a user may have, stopped ones too; 0 for no limit"),
    Setting("quota_gpus", 0, _count, "GPUs a user may hold at a time; 0 for no limit"),
    Setting("data_disk_most_gb", 1000, _count, "largest data disk that may be asked for, in GB"),
    Setting("currency", "EUR", _currency, "ISO 4217 code of the currency that everything is priced in"),
    Setting("currency_digits", 2, _count, "digits after the point that amounts are shown with to people"),
    Setting("timezone", "UTC", str, "time zone of regions that name none, for tide prices and months"),
    Setting("data_disk_price", 0, _price, "price of a GB of data disk per hour, also while stopped"),
    Setting("billing_beat", 5.0, _some_seconds, "seconds between looks at what is due and who runs dry"),
    Setting(
        "money_notices", (24, 4, 1), _hours, "hours of money left at which users are told, such as 24 4 1"
    ),
    Setting("term_notices", (72, 24, 1), _hours, "hours before the end of a term at which users are told"),
    Setting(
        "retention",
        604_800.0,
        _seconds,
        "seconds that data is kept of who has no money left, before it is removed",
    ),
    Setting("retention_notices", (72, 24), _hours, "hours before that at which users are told"),
    Setting("token_seconds", 86400, _some, "how long an access token is good"),
    Setting("token_issuer", "tidemill", str, "claim iss of access tokens"),
    Setting("token_audience", "tidemill", str, "claim aud of access tokens"),
    Setting("login_free_attempts", 3, _count, "failed logins before the answers are slowed down"),
    Setting("login_attempts", 10, _some, "failed logins per account before it is refused for a while"),
    Setting(
        "login_attempts_address", 50, _some, "failed logins per address before it is refused for a while"
    ),
    Setting("login_refused_seconds", 300.0, _seconds, "how long such a refusal lasts"),
    Setting("body_limit", 1048576, _some, "largest request body in bytes"),
    Setting(
        "secure_cookie",
        "auto",
        _one_of("auto", "true", "false"),
        "Secure attribute of the cookie: auto (by public_url), true, false",
    ),
    Setting("metrics_token", "", str, "what who reads /metrics must show; empty for this machine alone"),
    Setting("log_format", "text", _one_of("text", "json"), "text or json"),
)


class Settings:
    """The settings in force; every name of the table is an attribute. Raises Misconfigured."""

    def __init__(self, **given: Any) -> None:
        table = {setting.name: setting for setting in SETTINGS}
        unknown = sorted(set(given) - set(table))
        if unknown:
            raise Misconfigured(f"unknown setting {unknown[0]!r}; docs/settings.md lists them all")
        for setting in SETTINGS:
            value = given.get(setting.name, setting.default)
            try:
                setattr(self, setting.name, setting.parse(value))
            except (TypeError, ValueError) as error:
                raise Misconfigured(f"setting {setting.name}: {value!r} does not fit: {error}") from None

    def __getattr__(self, name: str) -> Any:  # only for names that the table does not have
        raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and the catalogue tables of the file as they were written."""

    settings: Settings
    tables: Mapping[str, Any]


TABLES = ("region", "image", "type", "tide", "device", "registry")


def load(
    file: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Configuration:
    """Read ``tidemill.toml`` (if given), the environment and the command line.

    Raises Misconfigured, with the file, the setting and the reason.
    """
    written: dict[str, Any] = {}
    if file is not None:
        try:
            written = tomllib.loads(file.read_text("utf-8"), parse_float=Decimal)
        except OSError as error:
            raise Misconfigured(f"cannot read {file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Misconfigured(f"{file} is not valid TOML: {error}") from None
    tables = {name: written.pop(name) for name in TABLES if name in written}
    names = {setting.name for setting in SETTINGS}
    for name in names:
        variable = f"TIDEMILL_{name.upper()}"
        if variable in environ:
            written[name] = environ[variable]
    written.update({name: value for name, value in overrides.items() if value is not None})
    return Configuration(Settings(**written), tables)
