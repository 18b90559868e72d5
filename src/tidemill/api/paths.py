"""What stands in paths: the ids of instances."""

from __future__ import annotations

from fastapi import Request
from starlette.convertors import Convertor, register_url_convertor

from tidemill.api.describe import in_path

INSTANCE_ID = in_path("instanceId", "^notebook-[0-9a-f-]{1,64}$")


class _InstanceId(Convertor[str]):
    """Only what looks like an instance's id; any other word is no path (as in the live service)."""

    regex = "notebook-[0-9A-Za-z-]{1,64}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("instance_id", _InstanceId())


def instance_id(request: Request) -> str:
    """The instance that the path names."""
    return str(request.path_params["instanceId"])
