"""From names that people know to the body of a launch: types, images and regions by name or id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tidemill.client.errors import Unknown
from tidemill.client.modelled import checked
from tidemill.client.subject import Amount, amount
from tidemill.model.offer import ChargeMode
from tidemill.wire.catalogue import ImageListAnswer, InstanceTypeInfo, RegionStock, StockAnswer
from tidemill.wire.launch import LaunchRequest

T = TypeVar("T")
IN_STOCK = "InStock"


@dataclass(frozen=True, slots=True)
class Offer:
    """One type as it is offered in one region, on demand or as spot."""

    type: InstanceTypeInfo
    region: RegionStock
    gpu_name: str
    is_spot: bool

    @property
    def in_stock(self) -> bool:
        return self.type.stockStatus == IN_STOCK

    @property
    def modes(self) -> tuple[str, ...]:
        """The charge modes that it has a price for."""
        return tuple(price.chargeMode for price in self.type.price)


def offers(stock: StockAnswer) -> list[Offer]:
    """Everything that is for rent, one by one, in the catalogue's order."""
    return [
        Offer(each, region, family.gpuName, family.isSpotInstance)
        for family in stock.instanceInfos
        for region in family.regionInfos
        for each in region.instanceTypeInfos
    ]


def compose(
    stock: StockAnswer,
    images: ImageListAnswer,
    *,
    name: str,
    type: str,
    image: str,
    region: str | None = None,
    charge_mode: str | None = None,
    duration: int = 1,
    spot: bool = False,
    ports: Sequence[int] = (),
    data_disk_gb: int = 0,
    init_script: str = "",
    env: Mapping[str, str] | None = None,
    ssh_key_ids: Sequence[str] | None = None,
    max_spend: Amount | None = None,
    stop_after_seconds: int | None = None,
    auto_renew: bool = False,
    instance_key: bool = False,
    options: Mapping[str, Any] | None = None,
) -> LaunchRequest:
    """The body of a launch. ``type``, ``image`` and ``region`` are an id, a name, or a part of only one name.

    Without ``region``, it is one where the type is in stock; without ``charge_mode``, ``perHour`` where the
    type has it. ``options`` are further fields of the body. Raises Unknown for a name that is none, or more
    than one, of what there is, with what there is; ClientError for what no server takes.
    """
    offer = choose(stock, type=type, region=region, charge_mode=charge_mode, spot=spot)
    chosen = pick("image", image, [(row.imageId, row.imageName, row) for row in images.images])
    body: dict[str, Any] = {
        "name": name,
        "imageId": chosen.imageId,
        "instanceTypeId": offer.type.instanceTypeId,
        "region": offer.region.regionId,
        "billing": {"chargeMode": charge_mode or default_mode(offer), "duration": duration},
        "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": data_disk_gb,
            "enableCommonData": False,
            "enableDocker": False,
            "dockerStorageSize": 0,
            "initScript": init_script,
        },
        "isSpotInstance": spot,
        "nodePorts": list(ports),
    }
    asked: dict[str, Any] = {
        "env": dict(env) if env else None,
        "sshKeyIds": None if ssh_key_ids is None else list(ssh_key_ids),
        "maxSpend": None if max_spend is None else amount(max_spend),
        "stopAfterSeconds": stop_after_seconds,
        "autoRenew": auto_renew or None,
        "instanceKey": instance_key or None,
    }
    body |= {field: value for field, value in asked.items() if value is not None}
    return checked(LaunchRequest, body | dict(options or {}))


def choose(
    stock: StockAnswer,
    *,
    type: str,
    region: str | None = None,
    charge_mode: str | None = None,
    spot: bool = False,
) -> Offer:
    """The offer that is meant: in stock before others, then in the catalogue's order. Raises Unknown."""
    there = [offer for offer in offers(stock) if offer.is_spot == spot]
    if region is not None:
        chosen = pick(
            "region", region, [(each.region.regionId, each.region.regionName, each.region) for each in there]
        )
        there = [each for each in there if each.region.regionId == chosen.regionId]
    kind = pick(
        "spot type" if spot else "type",
        type,
        [(each.type.instanceTypeId, each.type.instanceTypeName, each.type) for each in there],
    )
    there = [each for each in there if each.type.instanceTypeId == kind.instanceTypeId]
    if charge_mode is not None:
        offering = [each for each in there if charge_mode in each.modes]
        if not offering:
            known = tuple(dict.fromkeys(mode for each in there for mode in each.modes))
            instead = ", ".join(known) or "not at all"
            raise Unknown(f"{kind.instanceTypeName} is not offered {charge_mode}, but {instead}", known)
        there = offering
    return next((each for each in there if each.in_stock), there[0])


def default_mode(offer: Offer) -> str:
    """``perHour`` where it is offered, else the first that is."""
    per_hour = ChargeMode.PER_HOUR.value
    return per_hour if per_hour in offer.modes or not offer.modes else offer.modes[0]


def pick(what: str, said: str, known: Iterable[tuple[str, str, T]]) -> T:
    """The one of ``known`` (id, name, itself) that is meant: by id, name, or a part of one name alone.

    Upper and lower case are the same, but for ids. Raises Unknown.
    """
    by_id = {id: (name, each) for id, name, each in known}
    if said in by_id:
        return by_id[said][1]
    wanted = said.casefold().strip()
    names = tuple(dict.fromkeys(name for name, _ in by_id.values()))
    for fits in (
        [id for id, (name, _) in by_id.items() if name.casefold() == wanted],
        [id for id, (name, _) in by_id.items() if wanted and wanted in name.casefold()],
    ):
        if len(fits) == 1:
            return by_id[fits[0]][1]
        if fits:
            both = ", ".join(f"{by_id[id][0]} ({id})" for id in fits)
            raise Unknown(f"{said!r} can be more than one {what}: {both}", names)
    there = "; there is: " + ", ".join(names) if names else ""
    raise Unknown(f"There is no {what} {said!r}{there}", names)
