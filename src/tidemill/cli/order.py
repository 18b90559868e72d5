"""From flags and a file to the body of a launch.

A file that names type and image is the body, as it is; one that does not is laid over what a launch must say.
Flags come last. Only what somebody said by name is looked up.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tidemill.cli.failures import Exit, Failure

if TYPE_CHECKING:
    from tidemill.client import Client
    from tidemill.wire.catalogue import ImageRow, StockAnswer

STDIN = "-"
MODES = {
    "hour": "perHour",
    "tide": "tidePerHour",
    "day": "perDay",
    "week": "perWeek",
    "month": "perMonth",
}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPAN = re.compile(r"(?:\d{1,9}[smhd])+")
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What flags and answers say; None, or empty: nothing."""

    name: str | None = None
    type: str | None = None
    image: str | None = None
    region: str | None = None
    mode: str | None = None
    duration: int | None = None
    spot: bool | None = None
    ports: tuple[int, ...] = ()
    disk: int | None = None
    init: str | None = field(default=None, repr=False)
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    keys: tuple[str, ...] = ()
    max_spend: str | None = None
    stop_after: int | None = None
    auto_renew: bool | None = None
    instance_key: bool | None = None


class Catalogue:
    """What there is to rent, asked for once, and only when it is needed."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @cached_property
    def stock(self) -> StockAnswer:
        return self._client.catalogue.stock()

    @cached_property
    def images(self) -> list[ImageRow]:
        return self._client.catalogue.images()

    @cached_property
    def key_ids(self) -> list[tuple[str, str, str]]:
        """The account's ssh keys, as ``pick`` takes them."""
        return [(key.id, key.name, key.id) for key in self._client.account.ssh_keys()]


def is_whole(file: Body) -> bool:
    """Whether a file is the body of a launch by itself."""
    return "imageId" in file and "instanceTypeId" in file


def needs_names(said: Said, file: Body) -> bool:
    """Whether anything has to be looked up."""
    return not is_whole(file) or any((said.type, said.image, said.region, said.keys))


def body_of(said: Said, file: Body, catalogue: Catalogue | None) -> Body:
    """The body; ``catalogue`` may be left out where nothing ``needs_names``. Raises Unknown, Failure."""
    chosen: Body = {}
    template: Body = {}
    if needs_names(said, file):
        assert catalogue is not None  # noqa: S101
        template, chosen = _looked_up(said, file, catalogue)
    body = merged(merged(template, file), merged(chosen, _flags(said)))
    if not body.get("name"):
        from tidemill.cli.nickname import nickname

        body = {"name": nickname(), **{name: value for name, value in body.items() if name != "name"}}
    return body


def merged(below: Body, above: Body) -> Body:
    """``above`` over ``below``; objects are laid over each other field by field."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        both = isinstance(under, dict) and isinstance(value, dict)
        found[name] = merged(cast(Body, under), cast(Body, value)) if both else value
    return found


def _looked_up(said: Said, file: Body, catalogue: Catalogue) -> tuple[Body, Body]:
    """What a launch must say beside type and image; and the ids of what was named."""
    from tidemill.client.orders import choose, default_mode, pick

    template, chosen = _template(), Body()
    if said.type or said.region or "instanceTypeId" not in file:
        billing = file.get("billing")
        mode = said.mode or (cast(Body, billing).get("chargeMode") if isinstance(billing, dict) else None)
        region = said.region or file.get("region")
        offer = choose(
            catalogue.stock,
            type=str(said.type or file.get("instanceTypeId") or ""),
            region=None if region is None else str(region),
            charge_mode=None if mode is None else str(mode),
            spot=bool(file.get("isSpotInstance")) if said.spot is None else said.spot,
        )
        chosen |= {"instanceTypeId": offer.type.instanceTypeId, "region": offer.region.regionId}
        template["billing"]["chargeMode"] = default_mode(offer)
    if said.image or "imageId" not in file:
        known = [(row.imageId, row.imageName, row.imageId) for row in catalogue.images]
        chosen["imageId"] = pick("image", str(said.image or ""), known)
    if said.keys:
        chosen["sshKeyIds"] = [pick("ssh key", key, catalogue.key_ids) for key in said.keys]
    return ({} if is_whole(file) else template), chosen


def _template() -> Body:
    return {
        "name": "",
        "imageId": "",
        "instanceTypeId": "",
        "region": "",
        "billing": {"chargeMode": MODES["hour"], "duration": 1},
        "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": 0,
            "enableCommonData": False,
            "enableDocker": False,
            "dockerStorageSize": 0,
            "initScript": "",
        },
        "isSpotInstance": False,
        "nodePorts": [],
    }


def _flags(said: Said) -> Body:
    """The fields that flags give by themselves."""
    billing = {"chargeMode": said.mode, "duration": said.duration}
    configuration = {"extraDataDiskSizeDB": said.disk, "initScript": said.init}
    fields: Body = {
        "name": None if said.name is None else _utf8("The name", said.name),
        "billing": _given(billing) or None,
        "instanceConfiguration": _given(configuration) or None,
        "isSpotInstance": said.spot,
        "nodePorts": list(said.ports) or None,
        "env": dict(said.env) or None,
        "maxSpend": None if said.max_spend is None else _amount(said.max_spend),
        "stopAfterSeconds": said.stop_after,
        "autoRenew": said.auto_renew,
        "instanceKey": said.instance_key,
    }
    return _given(fields)


def _given(fields: Mapping[str, Any]) -> Body:
    return {name: value for name, value in fields.items() if value is not None}


def _amount(said: str) -> int | float:
    from tidemill.client.errors import ClientError
    from tidemill.client.subject import amount

    try:
        return amount(said)
    except ClientError as error:
        raise wrong(f"--max-spend: {error}") from None


def wrong(message: str, next: str = "") -> Failure:
    """A command that was typed wrongly."""
    return Failure(message, exit=Exit.USAGE, code="usage", next=next)


def charge_mode(said: str) -> str:
    """The wire's word for a short one, or the wire's own. Raises Failure."""
    known = {**MODES, **{mode.lower(): mode for mode in MODES.values()}}
    found = known.get(said.lower())
    if found is None:
        raise wrong(f"--mode: {said!r} is no charge mode", f"There are {', '.join(MODES)}")
    return found


def seconds(said: str) -> int:
    """``90m``, ``2h``, ``1h30m``, ``1d``. Raises Failure."""
    if not SPAN.fullmatch(said):
        raise wrong(f"--stop-after: {said!r} is no length of time", "Write it as 90m, 2h or 1h30m")
    return sum(int(count) * SECONDS[unit] for count, unit in re.findall(r"(\d+)([smhd])", said))


def environment(
    said: Iterable[str], file: str | None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """From lines of a file and ``K=V`` or ``K``, the latter with our own value; the last one holds.

    Raises Failure for a name that we do not have.
    """
    environ = os.environ if environ is None else environ
    lines = [] if file is None else text_of(file, "--env-file").splitlines()
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    found: dict[str, str] = {}
    for each in (*named, *said):
        name, equals, value = each.removeprefix("export ").partition("=")
        name = name.strip()
        if not equals and name not in environ:
            raise wrong(f"{name} is not set here, so it has no value to pass on")
        found[name] = _utf8(f"The value of {name}", value if equals else environ[name])
    return found


def _utf8(what: str, said: str) -> str:
    try:
        said.encode("utf-8")
    except UnicodeEncodeError:
        raise wrong(f"{what} is no text in UTF-8") from None
    return said


def text_of(path: str, what: str) -> str:
    """What a file holds, or with ``-`` standard input. Raises Failure."""
    try:
        if path == STDIN:
            return sys.stdin.buffer.read().decode("utf-8-sig")
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise wrong(f"{what}: {path} is no text in UTF-8") from None
    except OSError as error:
        raise wrong(f"{what}: {path}: {error.strerror}") from None


def body_in(path: str) -> Body:
    """The object in a JSON or YAML file. Raises Failure, saying where it is wrong."""
    text = text_of(path, "--file")
    looks_json = path.endswith(".json") or (
        text.lstrip().startswith("{") and not path.endswith((".yaml", ".yml"))
    )
    try:
        found = _json(path, text) if looks_json else _yaml(path, text)
        if not isinstance(found, dict):
            raise wrong(f"--file: {path} does not hold the object that is a launch's body")
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise wrong(f"--file: {path} has text that is no Unicode") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise wrong(f"--file: {path} holds what JSON cannot say: {error}") from None
    return cast(Body, found)


def _json(path: str, text: str) -> Any:
    from tidemill.model.errors import Invalid
    from tidemill.wire.body import decode

    try:
        return decode(text.encode("utf-8"))
    except Invalid as error:
        raise wrong(f"--file: {path}: {error}") from None


def _yaml(path: str, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows what JSON knows: what looks like a date is text."""

    Loader.yaml_implicit_resolvers = {
        first: [each for each in rules if each[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1} column {mark.column + 1}"
        raise wrong(f"--file: {path} is no YAML: {getattr(error, 'problem', error)}{where}") from None
