"""What a stream of events carries, one JSON object each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.wire.answers import Answer
from tidemill.wire.instances import EventRow

if TYPE_CHECKING:
    from tidemill.model.instance import Happening


class InstanceEvent(EventRow):
    """Something that happened to one of the caller's instances: a line of its history, and whose it is."""

    instanceId: str
    instanceName: str

    @classmethod
    def told(cls, happening: Happening, instance_name: str) -> InstanceEvent:
        return cls(**cls.fields_of(happening), instanceId=happening.instance_id, instanceName=instance_name)


class Reset(Answer):
    """The stream could not go on where the caller was: what they know of their instances may be wrong."""

    message: str
