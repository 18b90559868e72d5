"""Workload to engine and back, without an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.drivers.contract import Device, Port, Refused, Workload
from tidemill.drivers.docker import spec
from tidemill.guest.installed import InstalledGuest

GUEST = InstalledGuest(Path("/opt/guest"))
WORKLOAD = Workload(
    id="notebook-0f5a2c1e-0000-4000-8000-000000000001",
    start=3,
    tenant="tenant-a",
    hostname="box",
    image="registry.example.org/pytorch:2",
    cpu=1.5,
    memory_mb=2048,
    shm_mb=512,
    pids=300,
    ports=(Port(22, 31000), Port(8888, 31001)),
    authorized_keys=("ssh-ed25519 AAAAsecretkey",),
    host_key=b"the-secret-seed-of-32-bytes-1234",
    init_script="echo the-secret-script",
    env={"TOKEN": "the-secret-token"},
)


def config(workload: Workload = WORKLOAD, **changes: object) -> dict[str, Any]:
    arguments: dict[str, object] = {
        "deployment": "d1",
        "guest": GUEST,
        "files": Path("/data/instances/x"),
        "data_disk": None,
        "publish_address": "127.0.0.1",
        "stop_grace": 7.0,
    }
    return spec.container_config(workload, **(arguments | changes))  # type: ignore[arg-type]


def test_limits() -> None:
    host = config()["HostConfig"]
    assert host["NanoCpus"] == 1_500_000_000
    assert host["Memory"] == host["MemorySwap"] == 2048 * 2**20
    assert host["PidsLimit"] == 300
    assert host["ShmSize"] == 512 * 2**20


def test_fewer_rights_than_the_engine_gives() -> None:
    host = config()["HostConfig"]
    assert host["Privileged"] is False
    assert "no-new-privileges" in host["SecurityOpt"]
    assert {"MKNOD", "NET_RAW", "AUDIT_WRITE"} <= set(host["CapDrop"])
    assert "CapAdd" not in host
    assert host["RestartPolicy"] == {"Name": "no"}


def test_the_guest_runs_and_nothing_of_the_image() -> None:
    made = config()
    assert made["Entrypoint"] == list(GUEST.command)
    assert made["Cmd"] == []
    assert made["User"] == "0"
    assert made["Healthcheck"] == {"Test": ["NONE"]}
    mounts = {mount["Target"]: mount for mount in made["HostConfig"]["Mounts"]}
    assert set(mounts) == {"/.tidemill", "/.tidemill/instance"}
    assert all(mount["ReadOnly"] for mount in mounts.values())


def test_the_data_disk_can_be_written_to() -> None:
    mounts = config(data_disk=Path("/data/mounts/x/data"))["HostConfig"]["Mounts"]
    disk = {
        "Type": "bind",
        "Source": "/data/mounts/x/data",
        "Target": "/root/dataDisk",
        "ReadOnly": False,
    }
    assert disk in mounts


def test_ports_are_published_where_the_operator_says() -> None:
    made = config(publish_address="192.0.2.7")
    assert set(made["ExposedPorts"]) == {"22/tcp", "8888/tcp"}
    assert made["HostConfig"]["PortBindings"]["8888/tcp"] == [{"HostIp": "192.0.2.7", "HostPort": "31001"}]


def test_secrets_go_nowhere_but_where_they_belong() -> None:
    made = config()
    assert made["Env"][0] == "TOKEN=the-secret-token"
    made["Env"] = []
    assert "secret" not in repr(made)
    assert "secret" not in repr(WORKLOAD).replace("AAAAsecretkey", "")


def test_nvidia_cards_go_through_the_runtime() -> None:
    made = config(replace(WORKLOAD, devices=(Device("GPU-1", "H100"), Device("GPU-2", "H100"))))
    (request,) = made["HostConfig"]["DeviceRequests"]
    assert request["Driver"] == "nvidia"
    assert request["DeviceIDs"] == ["GPU-1", "GPU-2"]
    assert "gpu" in request["Capabilities"][0]
    assert made["HostConfig"]["Devices"] == []
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2" in made["Env"]


@pytest.mark.parametrize("asked", ["all", "0", "GPU-9"])
def test_nobody_gets_a_card_by_asking_in_the_environment(asked: str) -> None:
    made = config(replace(WORKLOAD, env={"NVIDIA_VISIBLE_DEVICES": asked}))
    assert made["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert made["HostConfig"]["DeviceRequests"] == []


def test_other_accelerators_are_device_nodes() -> None:
    made = config(replace(WORKLOAD, devices=(Device("npu-0", "NPU", ("/dev/npu0", "/dev/npu_ctl")),)))
    assert [device["PathOnHost"] for device in made["HostConfig"]["Devices"]] == ["/dev/npu0", "/dev/npu_ctl"]
    assert made["HostConfig"]["DeviceRequests"] == []


def row(name: str, **changes: object) -> dict[str, Any]:
    values: dict[str, Any] = {
        "Id": "abc",
        "Names": [name],
        "Image": "i",
        "State": "running",
        "Status": "Up",
        "Labels": spec.labels("d1", WORKLOAD),
        "Ports": [
            {"PrivatePort": 8888, "PublicPort": 31001, "Type": "tcp"},
            {"PrivatePort": 22, "PublicPort": 31000, "Type": "tcp"},
        ],
    }
    return values | changes


@given(start=st.integers(1, 10**6), starting=st.booleans())
def test_a_name_says_which_start_it_is(start: int, starting: bool) -> None:
    name = spec.container_name("d1", WORKLOAD.id, start, starting=starting)
    found = spec.read_row(row("/" + name), "d1")
    assert found is not None
    assert (found.id, found.start, found.starting) == (WORKLOAD.id, start, starting)


def test_what_a_listing_tells() -> None:
    found = spec.read_row(row(f"/tidemill-d1-{WORKLOAD.id}-3", Status="Exited (137) 4 minutes ago"), "d1")
    assert found is not None
    assert found.ports == {Port(22, 31000), Port(8888, 31001)}
    assert (found.ssh_port, found.exit_code, found.tenant, found.has_init) == (31000, 137, "tenant-a", True)


@pytest.mark.parametrize(
    "changes",
    [
        {"Names": [f"/tidemill-d1-{WORKLOAD.id}"]},
        {"Names": [f"/tidemill-d1-{WORKLOAD.id}-3x"]},
        {"Names": ["/somebody-elses"]},
        {"Names": []},
        {"Labels": {}},
        {"Labels": None},
        {"Labels": {spec.DEPLOYMENT: "d2", spec.INSTANCE: WORKLOAD.id}},
    ],
)
def test_what_is_not_ours_is_passed_over(changes: dict[str, Any]) -> None:
    assert spec.read_row(row(f"/tidemill-d1-{WORKLOAD.id}-3") | changes, "d1") is None


@given(st.text())
def test_only_ids_that_are_safe_in_paths_pass(id: str) -> None:
    try:
        assert spec.checked_id(id) == id
    except Refused:
        return
    assert Path("/a", id).resolve() == Path("/a") / id
    assert id.isascii()


def test_shape_follows_what_a_container_cannot_change() -> None:
    same = replace(WORKLOAD, start=9, authorized_keys=(), env={}, hostname="other")
    assert spec.shape(same) == spec.shape(WORKLOAD)
    for changes in ({"ports": (Port(22, 31005),)}, {"devices": (Device("GPU-1", "H100"),)}):
        assert spec.shape(replace(WORKLOAD, **changes)) != spec.shape(WORKLOAD)
