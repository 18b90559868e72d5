"""The request to launch an instance; fields stand in the order of the contract's table."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from tidemill.model.instance import SSH_PORT, Order
from tidemill.model.offer import ChargeMode
from tidemill.model.tariff import PERIODS_MOST
from tidemill.wire.fields import FLAG_TO_COME, NUMBER_TO_COME, Choice, Flag, Money, Request, Text, Whole
from tidemill.wire.problem import BROKEN_RULE, TYPE_MISMATCH, refusal, shown

NODE_PORTS_MOST = 100
REMOTE_STORAGES_MOST = 100
SSH_KEYS_MOST = 100
ENV_BYTES_MOST = 64 * 1024

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A mount over one of these would hide what the instance needs to run ...
_COVERED = frozenset(
    f"/{name}"
    for name in (
        *("", "bin", "boot", "etc", "home", "lib", "lib32", "lib64", "libx32", "opt", "root", "run"),
        *("sbin", "srv", "tmp", "usr", "usr/bin", "usr/lib", "usr/sbin", "var"),
    )
)
# ... and nothing at all may be mounted inside one of these.
_CLOSED = ("/.tidemill", "/dev", "/proc", "/sys")


class Billing(Request):
    """How the instance is paid for."""

    chargeMode: Annotated[str, Choice(tuple(mode.value for mode in ChargeMode))]
    duration: Annotated[int, Whole(1)] = Field(
        description="how many days, weeks or months; 1 for the hourly modes"
    )

    @field_validator("duration")
    @classmethod
    def _one_for_hourly(cls, duration: int, info: ValidationInfo) -> int:
        mode = info.data.get("chargeMode")
        if mode is not None and ChargeMode(mode).hourly and duration != 1:
            raise refusal(BROKEN_RULE, rule=f'must be 1 for charge mode "{mode}"')
        if duration > PERIODS_MOST:
            raise refusal(BROKEN_RULE, rule=f"may be at most {PERIODS_MOST}")
        return duration


class RemoteStorage(Request):
    """A volume to mount."""

    mountPath: Annotated[str, Text(least=1, most=4096)]
    remoteStorageName: Annotated[str, Text()]
    remoteStorageId: Annotated[str, Text()]
    type: Annotated[str, Choice(("highspeedstorage", "filesystem"))]

    @field_validator("mountPath")
    @classmethod
    def _usable_path(cls, path: str) -> str:
        rule = _path_rule(path)
        if rule:
            raise refusal(BROKEN_RULE, rule=f'{rule}: "{shown(path)}"')
        return path


def _path_rule(path: str) -> str:
    """What ``path`` breaks, or ""."""
    if not path.startswith("/"):
        return "must be an absolute path"
    if ".." in path.split("/"):
        return 'may not contain ".."'
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return "contains a control character"
    whole = _normal(path)
    if whole in _COVERED or any(_inside(whole, closed) for closed in _CLOSED):
        return "would hide a system folder"
    return ""


def _normal(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


class InstanceConfiguration(Request):
    """What the instance gets besides its type."""

    extraDataDiskSizeDB: Annotated[int, Whole(0)] = Field(0, description="GB; the spelling is the wire's")
    enableCommonData: Annotated[bool, Flag()]
    enableDocker: Annotated[bool, Flag()]
    dockerStorageSize: Annotated[int, Whole(0)] = Field(0, description="GB")
    initScript: Annotated[str, Text()] = Field(description="run once at the first start; may be empty")


class LaunchRequest(Request):
    """Body of POST /api/instance/create."""

    name: Annotated[str, Text(least=1, most=63, one_line=True)]
    imageId: Annotated[str, Text()]
    instanceTypeId: Annotated[str, Text()]
    region: Annotated[str, Text()]
    billing: Billing
    remoteStorages: list[RemoteStorage]
    instanceConfiguration: InstanceConfiguration
    isSpotInstance: Annotated[bool, Flag()] = False
    nodePorts: list[Annotated[int, Whole(1, 65535)]] = Field(
        description="ports inside the instance to publish besides ssh; may be empty"
    )
    dryRun: Annotated[bool, Flag()] = Field(False, description="every check and the quote, and no instance")
    waitForCapacity: Annotated[bool, FLAG_TO_COME] = False
    autoRenew: Annotated[bool, Flag()] = Field(False, description="buy another term when one ends")
    maxSpend: Annotated[int | None, Money(some=True)] = Field(
        None, description="it is stopped when it has cost this much"
    )
    stopAfterSeconds: Annotated[int | None, Whole(1)] = Field(
        None, description="it is stopped so long after it was reachable"
    )
    idleStopSeconds: Annotated[float | None, NUMBER_TO_COME] = None
    env: dict[str, str] = Field({}, description="variables for the instance, 64 KiB in all", repr=False)
    instanceKey: Annotated[bool, Flag()] = Field(
        False, description="a key inside by which the instance can see, stop, restart and terminate itself"
    )
    sshKeyIds: list[Annotated[str, Text()]] | None = Field(
        None, description="which of the account's ssh keys open the instance; left out for all"
    )

    @field_validator("remoteStorages")
    @classmethod
    def _apart(cls, storages: list[RemoteStorage]) -> list[RemoteStorage]:
        if len(storages) > REMOTE_STORAGES_MOST:
            raise refusal(BROKEN_RULE, rule=f"may hold at most {REMOTE_STORAGES_MOST} items")
        paths: list[str] = []
        for index, storage in enumerate(storages):
            path = _normal(storage.mountPath)
            for other in paths:
                if _inside(path, other) or _inside(other, path):
                    rule = f'"{shown(path)}" and "{shown(other)}" are the same or nested in each other'
                    raise refusal(BROKEN_RULE, at=f"[{index}].mountPath", rule=rule)
            paths.append(path)
        return storages

    @field_validator("nodePorts")
    @classmethod
    def _distinct(cls, ports: list[int]) -> list[int]:
        if len(ports) > NODE_PORTS_MOST:
            raise refusal(BROKEN_RULE, rule=f"may hold at most {NODE_PORTS_MOST} ports")
        for index, port in enumerate(ports):
            if port in ports[:index]:
                raise refusal(BROKEN_RULE, at=f"[{index}]", rule=f"is {port} again: each port only once")
        return ports

    @field_validator("env", mode="before")
    @classmethod
    def _environment(cls, env: Any) -> Any:
        if not isinstance(env, dict):
            raise refusal(TYPE_MISMATCH)
        size = 0
        for name, value in env.items():  # pyright: ignore[reportUnknownVariableType]
            if not _ENV_NAME.fullmatch(name):  # pyright: ignore[reportUnknownArgumentType]
                rule = "has a name that is not letters, digits and _ with no digit first"
                raise refusal(BROKEN_RULE, rule=f'{rule}: "{shown(name)}"')  # pyright: ignore[reportUnknownArgumentType]
            if not isinstance(value, str):
                raise refusal(TYPE_MISMATCH, at=f".{shown(name)}")  # pyright: ignore[reportUnknownArgumentType]
            if "\0" in value:
                raise refusal(BROKEN_RULE, at=f".{shown(name)}", rule="contains a NUL character")  # pyright: ignore[reportUnknownArgumentType]
            size += len(name) + len(value.encode("utf-8")) + 2  # pyright: ignore[reportUnknownArgumentType]
        if size > ENV_BYTES_MOST:
            raise refusal(BROKEN_RULE, rule=f"is larger than {ENV_BYTES_MOST} bytes in all")
        return env  # pyright: ignore[reportUnknownVariableType]

    @field_validator("sshKeyIds")
    @classmethod
    def _few(cls, ids: list[str] | None) -> list[str] | None:
        if ids is not None and len(ids) > SSH_KEYS_MOST:
            raise refusal(BROKEN_RULE, rule=f"may hold at most {SSH_KEYS_MOST} ids")
        return ids

    def to_order(self) -> Order:
        """The order as the model knows it."""
        asked = self.instanceConfiguration
        return Order(
            name=self.name,
            image_id=self.imageId,
            type_id=self.instanceTypeId,
            region_id=self.region,
            charge_mode=ChargeMode(self.billing.chargeMode),
            duration=self.billing.duration,
            node_ports=tuple(port for port in self.nodePorts if port != SSH_PORT),  # always published
            remote_storage_ids=tuple(storage.remoteStorageId for storage in self.remoteStorages),
            data_disk_gb=asked.extraDataDiskSizeDB,
            enable_common_data=asked.enableCommonData,
            enable_docker=asked.enableDocker,
            docker_storage_gb=asked.dockerStorageSize,
            init_script=asked.initScript,
            is_spot=self.isSpotInstance,
            env=dict(self.env),
            ssh_key_ids=None if self.sshKeyIds is None else tuple(dict.fromkeys(self.sshKeyIds)),
            auto_renew=self.autoRenew,
            max_spend_micro=self.maxSpend,
            stop_after_seconds=self.stopAfterSeconds,
            instance_key=self.instanceKey,
        )
