"""Instances on the wire: naming one, listing them, and what a row shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AliasChoices, Field, field_validator

from tidemill.model.lifecycle import State, wire_status
from tidemill.wire.answers import Answer, cores, gigabytes, units
from tidemill.wire.fields import Choice, Flag, Request, Text
from tidemill.wire.pages import Pager, PagerInfo
from tidemill.wire.regions import RegionInfo

if TYPE_CHECKING:
    from tidemill.model.instance import Happening, Instance, InstanceView, NodePort

INSTANCE_USERNAME = "root"
STATUSES = tuple(dict.fromkeys(wire_status(state) for state in State))


class InstanceRequest(Request):
    """Body of the calls that name one instance, and the answer to them."""

    instanceId: Annotated[str, Text()]


class StartRequest(Request):
    """Body of POST /api/instance/start."""

    instanceId: Annotated[str, Text()]
    dryRun: Annotated[bool, Flag()] = Field(False, description="every check and the quote, and no start")


class InstanceAnswer(Answer):
    """Which instance was asked for, or made."""

    instanceId: str


class Filter(Request):
    """Which instances. ``name`` is a part of it; several statuses mean any of them."""

    status: list[Annotated[str, Choice(STATUSES)]] | None = None
    name: Annotated[str | None, Text()] = None
    region: Annotated[str | None, Text()] = None
    includeReleased: Annotated[bool, Flag()] = False

    @field_validator("status", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, status: Any) -> Any:
        return [status] if isinstance(status, str) else status


class InstanceListRequest(Request):
    """Body of POST /api/instance/list."""

    pager: Pager
    filter: Filter = Filter()


class Metadata(Answer):
    instanceId: str
    instanceName: str = ""
    name: str = ""
    instanceUsername: str = INSTANCE_USERNAME
    createdAt: datetime | None = None
    imageId: str = ""
    imageName: str = ""
    userId: str = ""


class RuntimeInfo(Answer):
    """``progress`` is percent of the image pull, where known; ``sshHostKey`` is for known_hosts."""

    status: str
    phase: str = ""
    diagnosisReason: str = ""
    diagnosisMessage: str = ""
    startedAt: datetime | None = None
    queuePosition: int | None = None
    progress: int | None = None
    sshHostKey: str = ""


class BillingInfo(Answer):
    """``price`` in currency units per period of the charge mode; ``maxSpend`` in the same units."""

    chargeMode: str
    duration: int = 1
    price: int | float = 0
    currency: str = ""
    termEndsAt: datetime | None = None
    autoRenew: bool = False
    maxSpend: int | float | None = None


class NodePortInfo(Answer):
    """``port`` inside is reached at ``nodePort`` of the region's address."""

    port: int
    nodePort: int


class ConfigurationInfo(Answer):
    """What was asked for; the init script, a secret, is not shown again."""

    extraDataDiskSizeDB: int = 0
    enableCommonData: bool = False
    enableDocker: bool = False
    dockerStorageSize: int = 0


class SpecInfo(Answer):
    """``instanceKey``: inside is a key to the API, for this instance alone."""

    instanceTypeId: str = ""
    instanceTypeName: str = ""
    gpuName: str = ""
    gpuNum: int = 0
    cpu: int | float = 0
    memoryGB: int | float = 0
    isSpotInstance: bool = False
    billing: BillingInfo | None = None
    regionInfo: RegionInfo
    nodePorts: list[NodePortInfo] = Field([])
    remoteStorages: list[dict[str, Any]] = Field([])
    instanceConfiguration: ConfigurationInfo | None = None
    instanceKey: bool = False


class InstanceRow(Answer):
    """One instance."""

    instanceMetadata: Metadata
    instanceRuntimeInfo: RuntimeInfo
    instanceSpecInfo: SpecInfo

    @classmethod
    def of(cls, view: InstanceView, currency: str) -> InstanceRow:
        instance = view.instance
        return cls(
            instanceMetadata=Metadata(
                instanceId=instance.id,
                instanceName=instance.name,
                name=instance.name,
                instanceUsername=INSTANCE_USERNAME,
                createdAt=instance.created_at,
                imageId=instance.image_id,
                imageName=instance.image_name,
                userId=instance.user_id,
            ),
            instanceRuntimeInfo=_runtime(instance, view.host_key),
            instanceSpecInfo=_spec(view, currency),
        )


def _runtime(instance: Instance, host_key: str) -> RuntimeInfo:
    status = wire_status(instance.state)
    return RuntimeInfo(
        status=status,
        phase="DownloadImage" if instance.state is State.PULLING_IMAGE else status,
        diagnosisReason=instance.reason,
        diagnosisMessage=instance.message,
        startedAt=instance.started_at,
        queuePosition=None,
        progress=instance.progress,
        sshHostKey=host_key,
    )


def _spec(view: InstanceView, currency: str) -> SpecInfo:
    instance = view.instance
    return SpecInfo(
        instanceTypeId=instance.type_id,
        instanceTypeName=instance.type_name,
        gpuName=instance.gpu_name,
        gpuNum=instance.gpu_num,
        cpu=cores(instance.cpu_milli),
        memoryGB=gigabytes(instance.memory_mb),
        isSpotInstance=instance.is_spot,
        billing=BillingInfo(
            chargeMode=instance.charge_mode.value,
            duration=instance.duration,
            price=units(instance.price_micro),
            currency=currency,
            termEndsAt=instance.term_ends_at,
            autoRenew=instance.auto_renew,
            maxSpend=None if instance.max_spend_micro is None else units(instance.max_spend_micro),
        ),
        regionInfo=RegionInfo.of(view.region),
        nodePorts=_ports(view.ports),
        remoteStorages=[],
        instanceConfiguration=ConfigurationInfo(
            extraDataDiskSizeDB=instance.data_disk_gb,
            enableCommonData=instance.enable_common_data,
            enableDocker=instance.enable_docker,
            dockerStorageSize=instance.docker_storage_gb,
        ),
        instanceKey=instance.key_hash is not None,
    )


def _ports(ports: Sequence[NodePort]) -> list[NodePortInfo]:
    """Ssh first: there are clients that take the first one."""
    from tidemill.model.instance import SSH_PORT

    ordered = sorted(ports, key=lambda each: (each.port != SSH_PORT, each.port))
    return [NodePortInfo(port=each.port, nodePort=each.node_port) for each in ordered]


class InstanceListAnswer(Answer):
    """One page of the caller's instances, newest first."""

    instances: list[InstanceRow]
    pager: PagerInfo

    @classmethod
    def of(cls, views: Sequence[InstanceView], total: int, pager: Pager, currency: str) -> InstanceListAnswer:
        return cls(
            instances=[InstanceRow.of(view, currency) for view in views],
            pager=PagerInfo.of(pager, total),
        )


class EventRow(Answer):
    """One line of an instance's history. Later ones have a higher ``seq``."""

    seq: int
    at: datetime
    event: str
    from_: str = Field(validation_alias=AliasChoices("from_", "from"), serialization_alias="from")
    to: str
    start: int
    reason: str
    message: str

    @classmethod
    def of(cls, happening: Happening) -> EventRow:
        return cls(**cls.fields_of(happening))

    @staticmethod
    def fields_of(happening: Happening) -> dict[str, Any]:
        return {
            "seq": happening.seq,
            "at": happening.at,
            "event": happening.event,
            "from_": wire_status(happening.from_state),
            "to": wire_status(happening.to_state),
            "start": happening.start,
            "reason": happening.reason,
            "message": happening.message,
        }


class EventsAnswer(Answer):
    """What happened to an instance, oldest first; ask again with ``after`` = the last ``seq``."""

    events: list[EventRow]

    @classmethod
    def of(cls, happenings: Sequence[Happening]) -> EventsAnswer:
        return cls(events=[EventRow.of(each) for each in happenings])
