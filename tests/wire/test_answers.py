"""Answers, field by field as in the contract."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stock import CPU_TYPE, GPU_TYPE, REGION, START

from tidemill.model.errors import Invalid
from tidemill.model.instance import Happening, Instance, InstanceView, NodePort
from tidemill.model.lifecycle import State, wire_status
from tidemill.model.money import MOST, to_units
from tidemill.model.offer import ChargeMode
from tidemill.model.stock import Stock
from tidemill.model.tariff import Band, Tariff
from tidemill.wire.answers import units
from tidemill.wire.body import parse
from tidemill.wire.catalogue import StockAnswer
from tidemill.wire.instances import EventsAnswer, InstanceListAnswer, InstanceListRequest, InstanceRow
from tidemill.wire.pages import Pager

INSTANCE = Instance(
    id="notebook-1",
    user_id="user-1",
    name="my instance",
    hostname="my-instance",
    region_id=REGION.id,
    node_id="node-1",
    type_id="type-1",
    type_name="cpu-4",
    image_id="image-1",
    image_name="Debian",
    image_reference="debian:12",
    cpu_milli=4000,
    memory_mb=16384,
    shm_mb=64,
    pids=100,
    gpu_name="H200",
    gpu_num=1,
    charge_mode=ChargeMode.PER_HOUR,
    duration=1,
    price_micro=1_500_000,
    is_spot=False,
    data_disk_gb=10,
    enable_common_data=False,
    enable_docker=True,
    docker_storage_gb=5,
    init_script="secret script",
    env={"SECRET": "value"},
    ssh_key_ids=None,
    host_key=b"secret host key",
    created_at=START,
    state=State.RUNNING,
    state_since=START,
    reason="",
    message="",
    start=1,
    version=1,
    due_at=None,
    not_before=None,
    failures=0,
    revision=0,
    applied_revision=0,
    progress=None,
    init_exit=None,
    started_at=START + timedelta(seconds=9, microseconds=5000),
)
VIEW = InstanceView(INSTANCE, REGION, (NodePort(8, 31023), NodePort(22, 31022)), "ssh-ed25519 AAAA")
ROW = {
    "instanceMetadata": {
        "instanceId": "notebook-1",
        "instanceName": "my instance",
        "name": "my instance",
        "instanceUsername": "root",
        "createdAt": "2026-03-01T12:00:00Z",
        "imageId": "image-1",
        "imageName": "Debian",
        "userId": "user-1",
    },
    "instanceRuntimeInfo": {
        "status": "Running",
        "phase": "Running",
        "diagnosisReason": "",
        "diagnosisMessage": "",
        "startedAt": "2026-03-01T12:00:09.005000Z",
        "queuePosition": None,
        "progress": None,
        "sshHostKey": "ssh-ed25519 AAAA",
    },
    "instanceSpecInfo": {
        "instanceTypeId": "type-1",
        "instanceTypeName": "cpu-4",
        "gpuName": "H200",
        "gpuNum": 1,
        "cpu": 4,
        "memoryGB": 16,
        "isSpotInstance": False,
        "billing": {
            "chargeMode": "perHour",
            "duration": 1,
            "price": 1.5,
            "currency": "EUR",
            "termEndsAt": None,
            "autoRenew": False,
            "maxSpend": None,
        },
        "regionInfo": {
            "regionId": REGION.id,
            "regionName": "local",
            "sshAddress": "gpu.example.org",
        },
        "nodePorts": [{"port": 22, "nodePort": 31022}, {"port": 8, "nodePort": 31023}],
        "remoteStorages": [],
        "instanceConfiguration": {
            "extraDataDiskSizeDB": 10,
            "enableCommonData": False,
            "enableDocker": True,
            "dockerStorageSize": 5,
        },
        "instanceKey": False,
    },
}


def test_a_row() -> None:
    text = InstanceRow.of(VIEW, "EUR").model_dump_json()
    assert json.loads(text) == ROW
    assert '"cpu":4,"memoryGB":16,' in text
    assert "secret" not in text.lower()


def test_a_page() -> None:
    answer = InstanceListAnswer.of([VIEW], 7, Pager(currentPage=2, pageSize=1), "EUR")
    assert json.loads(answer.model_dump_json()) == {
        "instances": [ROW],
        "pager": {"currentPage": 2, "pageSize": 1, "totalEntries": 7},
    }


@pytest.mark.parametrize("state", list(State))
def test_status_and_phase(state: State) -> None:
    view = replace(VIEW, instance=replace(INSTANCE, state=state, reason="BackOff", message="why", progress=3))
    info = InstanceRow.of(view, "EUR").instanceRuntimeInfo
    assert info.status == wire_status(state)
    assert info.phase == ("DownloadImage" if state is State.PULLING_IMAGE else info.status)
    assert (info.diagnosisReason, info.diagnosisMessage, info.progress) == ("BackOff", "why", 3)


def test_events() -> None:
    happening = Happening(7, "notebook-1", START, "stop", State.RUNNING, State.TERMINATING, 2, "why", "how")
    assert json.loads(EventsAnswer.of([happening]).model_dump_json(by_alias=True)) == {
        "events": [
            {
                "seq": 7,
                "at": "2026-03-01T12:00:00Z",
                "event": "stop",
                "from": "Running",
                "to": "Stopping",
                "start": 2,
                "reason": "why",
                "message": "how",
            }
        ]
    }


def test_the_catalogue() -> None:
    spot = replace(GPU_TYPE, spot=True)
    tide = replace(CPU_TYPE, cpu_milli=500)
    night = Band("night", frozenset({0, 6}), 22 * 60, 8 * 60 + 30, 3_600_000)
    prices = {ChargeMode.PER_HOUR: Tariff(12_000_000), ChargeMode.TIDE_PER_HOUR: Tariff(7_200_000, (night,))}
    answer = StockAnswer.of(
        [
            Stock(tide, REGION, 0, prices, {}, 250),
            Stock(
                spot,
                REGION,
                3,
                {ChargeMode.PER_HOUR: Tariff(2_000_000)},
                {ChargeMode.PER_HOUR: Tariff(500_000)},
                250,
            ),
        ],
        "EUR",
    )
    region = {
        "regionId": REGION.id,
        "regionName": "local",
        "sshAddress": "gpu.example.org",
        "dataDiskPrice": 0.00025,
    }
    gpu = {
        "instanceTypeId": GPU_TYPE.id,
        "instanceTypeName": "1x H100",
        "gpuNum": 1,
        "cpu": 2,
        "memoryGB": 4,
        "stockStatus": "InStock",
        "price": [{"chargeMode": "perHour", "price": 2}],
    }
    cpu = {
        "instanceTypeId": CPU_TYPE.id,
        "instanceTypeName": "cpu-1",
        "gpuNum": 0,
        "cpu": 0.5,
        "memoryGB": 1,
        "stockStatus": "OutOfStock",
        "price": [
            {
                "chargeMode": "tidePerHour",
                "price": 7.2,
                "bands": [
                    {"name": "night", "days": ["mon", "sun"], "from": "22:00", "to": "08:30", "price": 3.6}
                ],
            },
            {"chargeMode": "perHour", "price": 12},
        ],
    }
    cheap = gpu | {"price": [{"chargeMode": "perHour", "price": 0.5}]}
    assert json.loads(answer.model_dump_json(by_alias=True)) == {
        "currency": "EUR",
        "instanceInfos": [
            {"gpuName": "", "isSpotInstance": False, "regionInfos": [region | {"instanceTypeInfos": [cpu]}]},
            {
                "gpuName": "H100",
                "isSpotInstance": False,
                "regionInfos": [region | {"instanceTypeInfos": [gpu]}],
            },
            {
                "gpuName": "H100",
                "isSpotInstance": True,
                "regionInfos": [region | {"instanceTypeInfos": [cheap]}],
            },
        ],
    }


@given(st.integers(0, MOST))
def test_no_amount_of_money_is_lost_to_rounding(micro: int) -> None:
    assert Decimal(json.dumps(units(micro))) == to_units(micro)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'field "pager" is not set'),
        ({"pager": {}}, 'field "pager.currentPage" is not set'),
        (
            {"pager": {"currentPage": 0, "pageSize": 1}},
            'field "pager.currentPage" must be a whole number of at least 1',
        ),
        (
            {"pager": {"currentPage": 1, "pageSize": 201}},
            'field "pager.pageSize" must be a whole number between 1 and 200',
        ),
        ({"pager": {"currentPage": 1, "pageSize": "1"}}, 'type mismatch for field "pager.pageSize"'),
        ({"pager": {"currentPage": 1, "pageSize": 1}, "filter": []}, 'type mismatch for field "filter"'),
        (
            {"pager": {"currentPage": 1, "pageSize": 1}, "filter": {"name": 1}},
            'type mismatch for field "filter.name"',
        ),
    ],
)
def test_list_requests(body: object, message: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse(InstanceListRequest, json.dumps(body).encode())
    assert raised.value.message == message


def test_filters() -> None:
    pager = {"currentPage": 1, "pageSize": 10}
    for status in ("Running", ["Running"]):
        sent = {"pager": pager, "filter": {"status": status}}
        assert parse(InstanceListRequest, json.dumps(sent).encode()).filter.status == ["Running"]
    with pytest.raises(Invalid, match=r'value "Terminating" for field "filter.status\[0\]" is not'):
        parse(
            InstanceListRequest, json.dumps({"pager": pager, "filter": {"status": ["Terminating"]}}).encode()
        )
