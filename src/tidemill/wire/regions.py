"""A region on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidemill.wire.answers import Answer

if TYPE_CHECKING:
    from tidemill.model.offer import Region


class RegionInfo(Answer):
    """``sshAddress`` is the host that instances of the region are reached at."""

    regionId: str = ""
    regionName: str = ""
    sshAddress: str

    @classmethod
    def of(cls, region: Region) -> RegionInfo:
        return cls(regionId=region.id, regionName=region.name, sshAddress=region.ssh_address)
