"""From names to the body of a launch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tidemill.client.errors import ClientError, Unknown
from tidemill.client.orders import choose, compose
from tidemill.wire.catalogue import ImageListAnswer, ImageRow, StockAnswer

IMAGES = ImageListAnswer(
    images=[
        ImageRow(imageId="i1", imageName="PyTorch 2.9", description=""),
        ImageRow(imageId="i2", imageName="PyTorch 2.9 devel", description=""),
        ImageRow(imageId="i3", imageName="Debian 12", description=""),
    ]
)


def _type(id: str, name: str, *modes: str, stock: str = "InStock") -> dict[str, Any]:
    return {
        "instanceTypeId": id, "instanceTypeName": name, "gpuNum": 1, "cpu": 8, "memoryGB": 64,
        "stockStatus": stock, "price": [{"chargeMode": mode, "price": 1} for mode in modes],
    }  # fmt: skip


def _region(id: str, name: str, *types: dict[str, Any]) -> dict[str, Any]:
    return {"regionId": id, "regionName": name, "sshAddress": "x", "instanceTypeInfos": list(types)}


STOCK = StockAnswer.model_validate(
    {
        "instanceInfos": [
            {
                "gpuName": "H100",
                "isSpotInstance": False,
                "regionInfos": [
                    _region("north", "North", _type("t1", "1x H100", "perHour", stock="OutOfStock")),
                    _region(
                        "south",
                        "South",
                        _type("t1", "1x H100", "tidePerHour"),
                        _type("t8", "8x H100", "perDay"),
                    ),
                ],
            },
            {
                "gpuName": "H100",
                "isSpotInstance": True,
                "regionInfos": [_region("north", "North", _type("t1", "1x H100", "perHour"))],
            },
        ]
    }
)


@pytest.mark.parametrize(
    ("asked", "region", "mode"),
    [
        ({"type": "1x h100"}, "south", "tidePerHour"),  # where it is in stock
        ({"type": "t1", "charge_mode": "perHour"}, "north", "perHour"),  # the only one that offers it
        ({"type": "1x H100", "region": "NORTH"}, "north", "perHour"),
        ({"type": "1x H100", "spot": True}, "north", "perHour"),
        ({"type": "8x"}, "south", "perDay"),
    ],
)
def test_type_and_region(asked: dict[str, Any], region: str, mode: str) -> None:
    order = compose(STOCK, IMAGES, name="n", image="debian", **asked)
    assert (order.region, order.billing.chargeMode) == (region, mode)
    assert order.isSpotInstance == asked.get("spot", False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"type": "A100"}, "There is no type 'A100'; there is: 1x H100, 8x H100"),
        ({"type": "H100"}, "can be more than one type: 1x H100 (t1), 8x H100 (t8)"),
        ({"type": ""}, "There is no type ''"),
        ({"type": "8x H100", "spot": True}, "There is no spot type '8x H100'; there is: 1x H100"),
        ({"type": "8x H100", "region": "north"}, "There is no type '8x H100'; there is: 1x H100"),
        ({"type": "t1", "region": "west"}, "There is no region 'west'; there is: North, South"),
        ({"type": "t8", "charge_mode": "perHour"}, "8x H100 is not offered perHour, but perDay"),
    ],
)
def test_a_name_that_is_none_is_answered_with_those_that_are(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(Unknown) as caught:
        choose(STOCK, **asked)
    assert said in str(caught.value)
    assert "West" not in caught.value.known


def test_an_image_that_is_named_whole_is_meant_though_it_is_a_part_of_another() -> None:
    assert compose(STOCK, IMAGES, name="n", type="t8", image="pytorch 2.9").imageId == "i1"
    with pytest.raises(Unknown, match="more than one image"):
        compose(STOCK, IMAGES, name="n", type="t8", image="pytorch")


def test_the_body_has_what_was_asked_for_and_nothing_that_was_not() -> None:
    order = compose(
        STOCK, IMAGES, name="n", type="t8", image="i3", ports=[8080], init_script="true", max_spend="2.50",
        env={"A": "b"}, stop_after_seconds=60, instance_key=True,
    )  # fmt: skip
    body = json.loads(order.model_dump_json(by_alias=True, exclude_unset=True))
    assert body == {
        "name": "n", "imageId": "i3", "instanceTypeId": "t8", "region": "south",
        "billing": {"chargeMode": "perDay", "duration": 1}, "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": 0, "enableCommonData": False, "enableDocker": False,
            "dockerStorageSize": 0, "initScript": "true",
        },
        "isSpotInstance": False, "nodePorts": [8080], "env": {"A": "b"}, "maxSpend": 2.5,
        "stopAfterSeconds": 60, "instanceKey": True,
    }  # fmt: skip


def test_what_no_server_takes_is_said_in_the_servers_words() -> None:
    with pytest.raises(
        ClientError, match=r'^field "nodePorts\[0\]" must be a whole number between 1 and 65535$'
    ):
        compose(STOCK, IMAGES, name="n", type="t8", image="i3", ports=[70000])
