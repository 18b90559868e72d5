"""What can be rented, on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidemill.wire.answers import Answer, cores, gigabytes, units
from tidemill.wire.regions import RegionInfo
from tidemill.wire.tide import PriceInfo, TidePriceInfo, price_infos

if TYPE_CHECKING:
    from tidemill.model.offer import Image, Region
    from tidemill.model.stock import Stock


class InstanceTypeInfo(Answer):
    """A type as it is offered in one region, on demand or as spot."""

    instanceTypeId: str
    instanceTypeName: str
    gpuNum: int
    cpu: int | float
    memoryGB: int | float
    stockStatus: str
    price: list[TidePriceInfo | PriceInfo]

    @classmethod
    def of(cls, stock: Stock, *, spot: bool) -> InstanceTypeInfo:
        kind = stock.type
        return cls(
            instanceTypeId=kind.id,
            instanceTypeName=kind.name,
            gpuNum=kind.gpu_num,
            cpu=cores(kind.cpu_milli),
            memoryGB=gigabytes(kind.memory_mb),
            stockStatus=stock.status,
            price=price_infos(stock.spot_prices if spot else stock.prices),
        )


class RegionStock(RegionInfo):
    """The types of one family in one region. ``dataDiskPrice`` is per GB and hour, also while stopped."""

    dataDiskPrice: int | float = 0
    instanceTypeInfos: list[InstanceTypeInfo]


class InstanceFamily(Answer):
    """All types with the same accelerator; ``gpuName`` is empty for those without."""

    gpuName: str
    isSpotInstance: bool
    regionInfos: list[RegionStock]


class StockAnswer(Answer):
    """What can be rented, by family and region, priced in ``currency``."""

    currency: str = ""
    instanceInfos: list[InstanceFamily]

    @classmethod
    def of(cls, stock: Sequence[Stock], currency: str) -> StockAnswer:
        """Families and regions in the order they first come in; spot families after the others."""
        families: dict[tuple[str, bool], dict[str, list[Stock]]] = {}
        for spot in (False, True):
            for each in stock:
                if spot and not each.type.spot:
                    continue
                regions = families.setdefault((each.type.gpu_name, spot), {})
                regions.setdefault(each.region.id, []).append(each)
        return cls(
            currency=currency,
            instanceInfos=[
                InstanceFamily(
                    gpuName=gpu_name,
                    isSpotInstance=spot,
                    regionInfos=[_region(found, spot=spot) for found in regions.values()],
                )
                for (gpu_name, spot), regions in families.items()
            ],
        )


def _region(found: Sequence[Stock], *, spot: bool) -> RegionStock:
    region = found[0].region
    return RegionStock(
        regionId=region.id,
        regionName=region.name,
        sshAddress=region.ssh_address,
        dataDiskPrice=units(found[0].disk_price),
        instanceTypeInfos=[InstanceTypeInfo.of(each, spot=spot) for each in found],
    )


class ImageRow(Answer):
    imageId: str
    imageName: str
    description: str


class ImageListAnswer(Answer):
    """The images that can be launched."""

    images: list[ImageRow]

    @classmethod
    def of(cls, images: Sequence[Image]) -> ImageListAnswer:
        return cls(
            images=[
                ImageRow(imageId=image.id, imageName=image.name, description=image.description)
                for image in images
            ]
        )


class RegionListAnswer(Answer):
    """The regions that take launches."""

    regions: list[RegionInfo]

    @classmethod
    def of(cls, regions: Sequence[Region]) -> RegionListAnswer:
        return cls(regions=[RegionInfo.of(region) for region in regions])
