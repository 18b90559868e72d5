"""What can be rented, on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.model.offer import ChargeMode, Image, InstanceType, Region, Stock
from tidemill.wire.answers import Answer, cores, gigabytes, units


class RegionInfo(Answer):
    """``sshAddress`` is the host that instances of the region are reached at."""

    regionId: str
    regionName: str
    sshAddress: str

    @classmethod
    def of(cls, region: Region) -> RegionInfo:
        return cls(regionId=region.id, regionName=region.name, sshAddress=region.ssh_address)


class PriceBand(Answer):
    """One band of a tide price (none are offered yet)."""


class PriceInfo(Answer):
    """Currency units per hour, day, week or month, by charge mode."""

    chargeMode: str
    price: int | float


class TidePriceInfo(PriceInfo):
    """The price that follows the load of the day, with its bands."""

    bands: list[PriceBand]


class InstanceTypeInfo(Answer):
    instanceTypeId: str
    instanceTypeName: str
    gpuNum: int
    cpu: int | float
    memoryGB: int | float
    stockStatus: str
    price: list[TidePriceInfo | PriceInfo]

    @classmethod
    def of(cls, stock: Stock) -> InstanceTypeInfo:
        kind = stock.type
        return cls(
            instanceTypeId=kind.id,
            instanceTypeName=kind.name,
            gpuNum=kind.gpu_num,
            cpu=cores(kind.cpu_milli),
            memoryGB=gigabytes(kind.memory_mb),
            stockStatus=stock.status,
            price=_prices(kind),
        )


def _prices(kind: InstanceType) -> list[TidePriceInfo | PriceInfo]:
    offered = [(mode, units(kind.prices[mode])) for mode in ChargeMode if mode in kind.prices]
    return [
        TidePriceInfo(chargeMode=mode.value, price=price, bands=[])
        if mode is ChargeMode.TIDE_PER_HOUR
        else PriceInfo(chargeMode=mode.value, price=price)
        for mode, price in offered
    ]


class RegionStock(RegionInfo):
    """The types of one family in one region."""

    instanceTypeInfos: list[InstanceTypeInfo]


class InstanceFamily(Answer):
    """All types with the same accelerator; ``gpuName`` is empty for those without."""

    gpuName: str
    isSpotInstance: bool
    regionInfos: list[RegionStock]


class StockAnswer(Answer):
    """What can be rented, by family and region."""

    instanceInfos: list[InstanceFamily]

    @classmethod
    def of(cls, stock: Sequence[Stock]) -> StockAnswer:
        """Families and regions in the order they first come in; spot families after the others."""
        families: dict[tuple[str, bool], dict[str, list[Stock]]] = {}
        for spot in (False, True):
            for each in stock:
                if spot and not each.type.spot:
                    continue
                regions = families.setdefault((each.type.gpu_name, spot), {})
                regions.setdefault(each.region.id, []).append(each)
        return cls(
            instanceInfos=[
                InstanceFamily(
                    gpuName=gpu_name,
                    isSpotInstance=spot,
                    regionInfos=[_region(found) for found in regions.values()],
                )
                for (gpu_name, spot), regions in families.items()
            ]
        )


def _region(found: Sequence[Stock]) -> RegionStock:
    region = found[0].region
    return RegionStock(
        regionId=region.id,
        regionName=region.name,
        sshAddress=region.ssh_address,
        instanceTypeInfos=[InstanceTypeInfo.of(each) for each in found],
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
