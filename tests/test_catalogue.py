"""The operator's catalogue, written or found."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.catalogue import Machine, Tables, default_types
from tidemill.model.errors import Misconfigured
from tidemill.model.offer import ChargeMode, Region

REGION = Region("r", "local", "gpu.example.org", "docker")
MACHINE = Machine(8, 64 * 1024, {"H100": 8})


@given(
    st.builds(
        Machine,
        cpu=st.integers(1, 512),
        memory_mb=st.integers(1024, 4 * 2**20),
        gpus=st.dictionaries(st.text(min_size=1, max_size=8), st.integers(1, 16), max_size=3),
    )
)
def test_default_types_fit_the_machine_and_the_largest_is_all_of_it(machine: Machine) -> None:
    types = default_types(machine)
    assert len({kind.id for kind in types}) == len(types) or machine.cpu == 1
    for kind in types:
        assert 0 < kind.cpu_milli <= machine.cpu * 1000
        assert 0 < kind.memory_mb <= machine.memory_mb
        assert kind.gpu_num <= machine.gpus.get(kind.gpu_name, 0) or not kind.gpu_name
        assert set(kind.prices) == set(ChargeMode)
    assert max(kind.cpu_milli for kind in types) == machine.cpu * 1000


def test_ids_are_the_same_every_time() -> None:
    rows: dict[str, Any] = {"image": [{"name": "a", "reference": "b"}]}
    assert Tables(rows).images() == Tables(rows).images()
    assert Tables({}).types(MACHINE, [REGION]) == Tables({}).types(MACHINE, [REGION])


def test_a_type_of_the_file() -> None:
    kind = Tables(
        {
            "type": [
                {
                    "name": "h100",
                    "cpu": 4,
                    "memoryGB": Decimal("16"),
                    "gpuName": "H100",
                    "gpuNum": 1,
                    "perHour": Decimal("1.5"),
                }
            ]
        }
    ).types(MACHINE, [REGION])[0]
    assert kind.prices == {ChargeMode.PER_HOUR: 1_500_000}
    assert (kind.cpu_milli, kind.memory_mb, kind.gpu_num) == (4000, 16384, 1)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"type": [{"name": "t", "cpu": 1}]}, "'memoryGB' is missing"),
        ({"type": [{"name": "t", "cpu": 1, "memoryGB": 1, "perHour": -1}]}, "'t'"),
        ({"type": [{"name": "t", "cpu": 1, "memoryGB": 1, "gpuNum": 1}]}, "go together"),
        ({"type": [{"name": "t", "cpus": 1}]}, "unknown key 'cpus'"),
        ({"type": [5]}, r"write it as \[\[type\]\]"),
        *(
            ({"type": [{"name": "t", "cpu": 1, "memoryGB": 1} | bad]}, says)
            for bad, says in (
                ({"cpu": "a"}, "'cpu' is not a number"),
                ({"cpu": Decimal("1e30")}, "'cpu'"),
                ({"cpu": Decimal("nan")}, "'t'"),
                ({"gpuNum": -1}, "'gpuNum'"),
                ({"shmGB": -1}, "'shmGB'"),
                ({"pids": 0}, "pids"),
                ({"pids": Decimal("99.5")}, "'pids'"),
                ({"spot": "false"}, "'spot' is neither true nor false"),
                ({"regions": "local"}, "'regions' is not a list of texts"),
                ({"id": 5}, "'id' is not a text"),
            )
        ),
        ({"image": [{"name": "t", "reference": "a", "id": 7}]}, "'id' is not a text"),
        ({"device": [{"id": "d", "name": "n", "paths": "/dev/d"}]}, "'paths' is not a list of texts"),
        ({"image": [{"name": "t"}]}, "'reference' is missing"),
        ({"image": {"name": "t"}}, r"write it as \[\[image\]\]"),
        ({"image": [{"name": "t", "reference": "a"}, {"name": "t", "reference": "b"}]}, "there twice"),
    ],
)
def test_a_bad_table_is_refused_with_the_reason(tables: dict[str, Any], says: str) -> None:
    def read() -> None:
        found = Tables(tables)
        found.images()
        found.types(MACHINE, [REGION])
        found.devices()

    with pytest.raises(Misconfigured, match=says):
        read()


def test_a_type_names_its_regions_by_name_or_id() -> None:
    rows = [
        {"name": name, "cpu": 1, "memoryGB": 1, "regions": [region]}
        for name, region in (("a", "local"), ("b", "r"))
    ]
    assert [kind.regions for kind in Tables({"type": rows}).types(MACHINE, [REGION])] == [("r",), ("r",)]
    rows[0]["regions"] = ["elsewhere"]
    with pytest.raises(Misconfigured, match="no region 'elsewhere'"):
        Tables({"type": rows}).types(MACHINE, [REGION])
