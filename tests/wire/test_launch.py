"""The launch request: every rule of the contract, its one message, and any JSON at all."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.model.errors import Invalid
from tidemill.model.instance import Order
from tidemill.model.offer import ChargeMode
from tidemill.wire.body import parse
from tidemill.wire.launch import LaunchRequest

STORAGE = {"mountPath": "/data", "remoteStorageName": "v", "remoteStorageId": "i", "type": "filesystem"}
GOOD: dict[str, Any] = {
    "name": "my instance",
    "imageId": "image",
    "instanceTypeId": "type",
    "region": "region",
    "billing": {"chargeMode": "perHour", "duration": 1},
    "remoteStorages": [],
    "instanceConfiguration": {
        "extraDataDiskSizeDB": 10,
        "enableCommonData": False,
        "enableDocker": True,
        "dockerStorageSize": 0,
        "initScript": "echo hello",
    },
    "isSpotInstance": False,
    "nodePorts": [7891, 8080],
}
ABSENT = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with the field at a dotted path set, or taken out."""
    body = copy.deepcopy(GOOD)
    *above, last = path.split(".")
    place = body
    for name in above:
        place = place[name]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return body


def refusal(body: Any) -> str:
    with pytest.raises(Invalid) as raised:
        parse(LaunchRequest, json.dumps(body).encode())
    return raised.value.message


def test_a_good_request_becomes_an_order() -> None:
    body = GOOD | {"env": {"A": "b"}, "sshKeyIds": ["k", "k"], "remoteStorages": [STORAGE], "newField": 1}
    assert parse(LaunchRequest, json.dumps(body).encode()).to_order() == Order(
        name="my instance",
        image_id="image",
        type_id="type",
        region_id="region",
        charge_mode=ChargeMode.PER_HOUR,
        duration=1,
        node_ports=(7891, 8080),
        remote_storage_ids=("i",),
        data_disk_gb=10,
        enable_common_data=False,
        enable_docker=True,
        docker_storage_gb=0,
        init_script="echo hello",
        env={"A": "b"},
        ssh_key_ids=("k",),
    )


def test_what_is_optional_has_a_default() -> None:
    body = changed("instanceConfiguration.extraDataDiskSizeDB", None)
    del body["instanceConfiguration"]["dockerStorageSize"], body["isSpotInstance"]
    order = parse(LaunchRequest, json.dumps(body).encode()).to_order()
    assert (order.data_disk_gb, order.docker_storage_gb, order.is_spot, order.ssh_key_ids) == (
        0,
        0,
        False,
        None,
    )


@pytest.mark.parametrize("value", [ABSENT, None], ids=["absent", "null"])
@pytest.mark.parametrize(
    "path",
    [
        "name",
        "imageId",
        "instanceTypeId",
        "region",
        "billing",
        "billing.chargeMode",
        "billing.duration",
        "remoteStorages",
        "instanceConfiguration",
        "instanceConfiguration.enableCommonData",
        "instanceConfiguration.enableDocker",
        "instanceConfiguration.initScript",
        "nodePorts",
    ],
)
def test_what_is_required(path: str, value: Any) -> None:
    assert refusal(changed(path, value)) == f'field "{path}" is not set'


@pytest.mark.parametrize("name", list(STORAGE))
def test_what_a_storage_requires(name: str) -> None:
    storage = {key: value for key, value in STORAGE.items() if key != name}
    body = GOOD | {"remoteStorages": [STORAGE, storage]}
    assert refusal(body) == f'field "remoteStorages[1].{name}" is not set'


def test_the_first_problem_in_the_order_of_the_table_wins() -> None:
    assert refusal({}) == 'field "name" is not set'
    body = changed("billing.duration", "x") | {"nodePorts": "y"}
    assert refusal(body) == 'type mismatch for field "billing.duration"'
    del body["region"]
    assert refusal(dict(reversed(body.items()))) == 'field "region" is not set'


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", 1),
        ("region", ["a"]),
        ("billing", "perHour"),
        ("billing", []),
        ("billing.chargeMode", 7),
        ("billing.duration", "1"),
        ("billing.duration", True),
        ("remoteStorages", {}),
        ("remoteStorages", "none"),
        ("instanceConfiguration", 1),
        ("instanceConfiguration.enableDocker", "true"),
        ("instanceConfiguration.enableDocker", 1),
        ("instanceConfiguration.extraDataDiskSizeDB", "10"),
        ("instanceConfiguration.initScript", False),
        ("isSpotInstance", "false"),
        ("nodePorts", 80),
        ("dryRun", "true"),
        ("maxSpend", "1"),
        ("env", ["A=b"]),
        ("sshKeyIds", "k"),
    ],
)
def test_wrong_types(path: str, value: Any) -> None:
    assert refusal(changed(path, value)) == f'type mismatch for field "{path}"'


def test_wrong_types_in_arrays_and_objects() -> None:
    assert refusal(GOOD | {"nodePorts": [80, "81"]}) == 'type mismatch for field "nodePorts[1]"'
    assert refusal(GOOD | {"remoteStorages": [1]}) == 'type mismatch for field "remoteStorages[0]"'
    assert refusal(GOOD | {"env": {"A": 1}}) == 'type mismatch for field "env.A"'
    assert refusal([]) == "The request body is not a JSON object"


def test_options() -> None:
    assert refusal(changed("billing.chargeMode", "perYear")) == (
        'value "perYear" for field "billing.chargeMode" is not defined in options '
        '"[tidePerHour perHour perDay perWeek perMonth]"'
    )
    assert refusal(GOOD | {"remoteStorages": [STORAGE | {"type": "nfs"}]}) == (
        'value "nfs" for field "remoteStorages[0].type" is not defined in options '
        '"[highspeedstorage filesystem]"'
    )


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("name", "", "must have 1 to 63 characters"),
        ("name", "x" * 64, "must have 1 to 63 characters"),
        ("name", " \u2003 ", "may not be blank"),
        ("name", "a\nb", "contains a control character"),
        ("name", "a\u2028b", "contains a control character"),
        ("name", "a\0b", "contains a NUL character"),
        ("instanceConfiguration.initScript", "a\0b", "contains a NUL character"),
        ("billing.duration", 2, 'must be 1 for charge mode "perHour"'),
        ("billing.duration", 0, "must be a whole number of at least 1"),
        ("billing.duration", 1.5, "must be a whole number of at least 1"),
        ("billing.duration", -1, "must be a whole number of at least 1"),
        ("billing.duration", 2**31, "must be a whole number between 1 and 2147483647"),
        ("instanceConfiguration.extraDataDiskSizeDB", -1, "must be a whole number of at least 0"),
        ("instanceConfiguration.extraDataDiskSizeDB", 0.5, "must be a whole number of at least 0"),
        (
            "instanceConfiguration.dockerStorageSize",
            10**400,
            "must be a whole number between 0 and 2147483647",
        ),
        ("waitForCapacity", True, "is not offered by this server yet"),
        ("maxSpend", 0, "may not be 0"),
        ("maxSpend", -1, "may not be below 0"),
        (
            "maxSpend",
            0.0000001,
            "must be an amount of at most 1000000000 with at most six digits after the point",
        ),
        (
            "maxSpend",
            10**9 + 1,
            "must be an amount of at most 1000000000 with at most six digits after the point",
        ),
        (
            "maxSpend",
            1e300,
            "must be an amount of at most 1000000000 with at most six digits after the point",
        ),
        (
            "maxSpend",
            10**400,
            "must be an amount of at most 1000000000 with at most six digits after the point",
        ),
        ("stopAfterSeconds", 0, "must be a whole number of at least 1"),
        ("idleStopSeconds", 60, "is not offered by this server yet"),
    ],
)
def test_rules(path: str, value: Any, rule: str) -> None:
    assert refusal(changed(path, value)) == f'field "{path}" {rule}'


def test_a_term_has_an_end() -> None:
    body = changed("billing", {"chargeMode": "perMonth", "duration": 1001})
    assert refusal(body) == 'field "billing.duration" may be at most 1000'


@pytest.mark.parametrize(
    ("sent", "micro"), [("1", 10**6), ("0.000001", 1), ("1e2", 10**8), ("999999999.123457", 999999999123457)]
)
def test_what_a_launch_may_cost_is_exact(sent: str, micro: int) -> None:
    body = json.dumps(GOOD | {"maxSpend": 0, "stopAfterSeconds": 60, "dryRun": True}).replace(
        '"maxSpend": 0', f'"maxSpend": {sent}'
    )
    asked = parse(LaunchRequest, body.encode())
    assert asked.dryRun
    order = asked.to_order()
    assert (order.max_spend_micro, order.stop_after_seconds, order.auto_renew) == (micro, 60, False)


def test_names_at_the_bounds() -> None:
    for name in ("a", "x" * 63, "模型 1", "🦙"):
        assert parse(LaunchRequest, json.dumps(GOOD | {"name": name}).encode()).name == name


def test_what_asks_for_nothing_passes_though_not_offered() -> None:
    body = GOOD | {"dryRun": False, "autoRenew": None, "waitForCapacity": False, "maxSpend": None}
    parse(LaunchRequest, json.dumps(body).encode())


def test_a_number_without_a_fraction_is_whole() -> None:
    body = changed("billing", {"chargeMode": "perDay", "duration": 3.0})
    order = parse(LaunchRequest, json.dumps(body | {"nodePorts": [8e1]}).encode()).to_order()
    assert (order.duration, order.node_ports) == (3, (80,))
    assert isinstance(order.duration, int)


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([0], 'field "nodePorts[0]" must be a whole number between 1 and 65535'),
        ([80, 65536], 'field "nodePorts[1]" must be a whole number between 1 and 65535'),
        ([80, 81, 80], 'field "nodePorts[2]" is 80 again: each port only once'),
        ([22, 80, 22], 'field "nodePorts[2]" is 22 again: each port only once'),
        (list(range(1000, 1101)), 'field "nodePorts" may hold at most 100 ports'),
    ],
)
def test_ports(ports: list[int], message: str) -> None:
    assert refusal(GOOD | {"nodePorts": ports}) == message


def test_the_ssh_port_may_be_asked_for_once_and_is_published_anyway() -> None:
    order = parse(LaunchRequest, json.dumps(GOOD | {"nodePorts": [22, 80]}).encode()).to_order()
    assert order.node_ports == (80,)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["data"], 'field "remoteStorages[0].mountPath" must be an absolute path: "data"'),
        (["/a/../etc"], 'field "remoteStorages[0].mountPath" may not contain "..": "/a/../etc"'),
        (
            ["/a", "/a/"],
            'field "remoteStorages[1].mountPath" "/a" and "/a" are the same or nested in each other',
        ),
        (
            ["/a/b", "//a"],
            'field "remoteStorages[1].mountPath" "/a" and "/a/b" are the same or nested in each other',
        ),
        *[
            ([path], f'field "remoteStorages[0].mountPath" would hide a system folder: "{path}"')
            for path in (
                "/",
                "/etc/",
                "//usr",
                "/./root",
                "/proc/1",
                "/dev/shm",
                "/.tidemill/x",
                "/sys",
                "/tmp",
            )
        ],
    ],
)
def test_mount_paths(paths: list[str], message: str) -> None:
    assert refusal(GOOD | {"remoteStorages": [STORAGE | {"mountPath": path} for path in paths]}) == message


def test_paths_beside_each_other() -> None:
    storages = [STORAGE | {"mountPath": path} for path in ("/a", "/ab", "/root/models", "/mnt")]
    parse(LaunchRequest, json.dumps(GOOD | {"remoteStorages": storages}).encode())


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=", "Ä", "A\n"])
def test_names_of_variables(name: str) -> None:
    assert refusal(GOOD | {"env": {name: "x"}}).startswith('field "env" has a name that is not letters')


def test_size_of_the_environment() -> None:
    assert refusal(GOOD | {"env": {"A": "ä" * 32767}}) == 'field "env" is larger than 65536 bytes in all'
    parse(LaunchRequest, json.dumps(GOOD | {"env": {"A": "ä" * 32766}}).encode())


def test_secrets_are_not_shown() -> None:
    body = changed("instanceConfiguration.initScript", "hunter2") | {"env": {"A": "hunter2"}}
    order = parse(LaunchRequest, json.dumps(body).encode()).to_order()
    assert "hunter2" not in repr(order)
    assert "hunter2" not in refusal(body | {"env": {"A": "hunter2", "B": 1}})


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        found += paths_of(item, (*at, name))
    return found


FULL = GOOD | {
    "remoteStorages": [STORAGE],
    "env": {"A": "b"},
    "sshKeyIds": ["k"],
    "dryRun": False,
    "maxSpend": None,
}


def outcome(body: Any) -> Order | Invalid:
    try:
        return parse(LaunchRequest, json.dumps(body).encode("utf-8")).to_order()
    except Invalid as error:
        return error


@given(ANY_JSON)
def test_any_json_is_refused_by_one_sentence(body: Any) -> None:
    refused = outcome(body)
    assert isinstance(refused, Invalid)
    assert refused.message
    assert "\n" not in refused.message


@settings(max_examples=400)
@given(st.data())
def test_a_good_request_with_anything_anywhere_is_an_order_or_one_sentence(data: st.DataObject) -> None:
    body = copy.deepcopy(FULL)
    *above, last = data.draw(st.sampled_from(paths_of(body)))
    place: Any = body
    for name in above:
        place = place[name]
    place[last] = data.draw(ANY_JSON)
    found = outcome(body)
    if isinstance(found, Invalid):
        kinds = {"fieldNotSet", "typeMismatch", "notInOptions", "invalidField", "notOffered", "invalidJson"}
        assert found.code in kinds
        assert 0 < len(found.message) < 1000
    else:
        assert 1 <= len(found.name) <= 63
        assert found.duration >= 1
        assert len(set(found.node_ports)) == len(found.node_ports)
