"""The pure parts: progress of a pull, image names, subnets, ends, errors."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.drivers.contract import DriverError, NoRoom, Refused, Unreachable
from tidemill.drivers.docker.ends import End, read_code, read_end
from tidemill.drivers.docker.errors import in_contract_words, translate
from tidemill.drivers.docker.images import Progress, full_name, login_for, registry_of
from tidemill.drivers.docker.networks import free_subnets
from tidemill.drivers.docker.reach import probe_host

LINE = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "b", "c"]),
        "status": st.sampled_from(
            [
                "Pulling fs layer",
                "Waiting",
                "Downloading",
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete",
                "Already exists",
                "Retrying in 5 seconds",
            ]
        ),
        "progressDetail": st.one_of(
            st.just({}),
            st.fixed_dictionaries({"current": st.integers(0, 9000), "total": st.integers(0, 9000)}),
        ),
    }
)


@given(st.lists(LINE))
def test_progress_never_falls_and_stays_in_bounds(lines: list[dict[str, Any]]) -> None:
    progress, before = Progress(), None
    for line in lines:
        percent = progress.read(line)
        assert percent is None or 0 <= percent <= 100
        assert before is None or (percent is not None and percent >= before)
        before = percent


def test_progress_of_a_whole_pull() -> None:
    progress = Progress()
    assert progress.read({"status": "Pulling from library/x", "id": "latest"}) is None
    for layer in ("a", "b"):
        assert progress.read({"status": "Pulling fs layer", "id": layer}) == 0
    half = {"current": 50, "total": 100}
    assert progress.read({"status": "Downloading", "id": "a", "progressDetail": half}) == 17
    progress.read({"status": "Pull complete", "id": "a"})
    assert progress.read({"status": "Pull complete", "id": "b"}) == 100


@pytest.mark.parametrize(
    ("image", "registry", "full"),
    [
        ("ubuntu", "docker.io", "docker.io/library/ubuntu"),
        ("nvidia/cuda:12", "docker.io", "docker.io/nvidia/cuda:12"),
        ("docker.io/library/ubuntu", "docker.io", "docker.io/library/ubuntu"),
        ("ghcr.io/a/b@sha256:00", "ghcr.io", "ghcr.io/a/b@sha256:00"),
        ("localhost/a", "localhost", "localhost/a"),
        ("registry:5000/a", "registry:5000", "registry:5000/a"),
    ],
)
def test_where_an_image_comes_from(image: str, registry: str, full: str) -> None:
    assert registry_of(image) == registry
    assert full_name(image) == full
    assert login_for(image, {registry: ("me", "secret")}) == {"username": "me", "password": "secret"}
    assert login_for(image, {"elsewhere.org": ("me", "secret")}) is None


def rows(*subnets: str) -> list[dict[str, Any]]:
    return [{"Name": subnet, "IPAM": {"Config": [{"Subnet": subnet}]}} for subnet in subnets]


@given(st.text(), st.sets(st.integers(0, 255)))
def test_subnets_are_free_and_from_the_pool(tenant: str, taken: set[int]) -> None:
    pool = IPv4Network("10.213.0.0/16")
    free = list(free_subnets(pool, rows(*(f"10.213.{third}.0/24" for third in taken)), tenant))
    assert len(set(free)) == len(free) == 256 - len(taken)
    assert all(subnet.subnet_of(pool) for subnet in free)
    assert not {subnet.network_address.packed[2] for subnet in free} & taken


def test_odd_networks_of_others_are_no_obstacle() -> None:
    listed = [
        {"Name": "none", "IPAM": {"Config": None}},
        {"Name": "host", "IPAM": None},
        {"Name": "odd"},
        *rows("fd00::/64", "10.0.0.0/8"),
        {"Name": "x", "IPAM": {"Config": [{"Gateway": "1.2.3.4"}]}},
    ]
    assert list(free_subnets(IPv4Network("10.213.0.0/16"), listed, "a")) == []
    assert len(list(free_subnets(IPv4Network("192.168.0.0/24"), listed, "a"))) == 1
    assert len(list(free_subnets(IPv4Network("192.168.0.0/28"), listed, "a"))) == 1


def ended(**state: object) -> dict[str, Any]:
    return {
        "State": {"ExitCode": 0, "Error": "", "OOMKilled": False} | state,
        "HostConfig": {"Memory": 64 * 2**20},
    }


def test_ends_in_words() -> None:
    assert read_end(ended()) == End(0)
    assert read_end(ended(ExitCode=1)) == End(1)
    assert read_end(ended(ExitCode=143)) == End(143, message="ended by the signal SIGTERM")
    assert read_end(ended(ExitCode=255)) == End(255)
    oom = read_end(ended(ExitCode=137, OOMKilled=True))
    assert oom.reason == "OOMKilled"
    assert "64 MiB" in oom.message
    killed = read_end(ended(ExitCode=137))
    assert killed.reason == "Killed"
    assert "64 MiB" in killed.message
    # Something else in it ran out of memory once; that is not what ended it.
    assert read_end(ended(ExitCode=0, OOMKilled=True)).reason == ""
    failed = read_end(ended(ExitCode=128, Error="mount /srv/data/x: exec format error"), {"/srv/data"})
    assert failed.reason == "StartError"
    assert failed.message.endswith("mount …/x: exec format error")


def test_the_init_scripts_code() -> None:
    assert read_code(b"0\n") == 0
    assert read_code(b"-1\n") == -1
    assert read_code(b"127") == 127


@pytest.mark.parametrize("content", [b"", b"\n", b"x", b"1e9", b"99999", b"-2", b"\xff\xfe", b"1 2"])
def test_a_file_that_a_user_made_up_says_nothing(content: bytes) -> None:
    assert read_code(content) is None


@given(st.binary(max_size=20))
def test_whatever_it_holds_it_is_a_code_or_nothing(content: bytes) -> None:
    assert read_code(content) in {None, *range(-1, 256)}


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (500, "driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:31005 failed:"
         " port is already allocated", NoRoom, "31005"),
        (500, "Error starting userland proxy: listen tcp4 0.0.0.0:31006: bind: address already in use",
         NoRoom, "31006"),
        (500, "failed to set up container networking: driver failed programming external connectivity"
         " on endpoint x: failed to bind host port for 0.0.0.0:31007:10.213.4.2:22/tcp: address already"
         " in use",
         NoRoom, "Port 31007"),
        (500, "failed to set up container networking: driver failed programming external connectivity"
         " on endpoint x: failed to bind host port 127.0.0.1:31008/tcp: address already in use",
         NoRoom, "Port 31008"),
        (500, "failed to bind host port [::]:31009/tcp: address already in use", NoRoom, "Port 31009"),
        (500, "write /var/lib/docker/x: no space left on device", NoRoom, "disk"),
        (500, 'could not select device driver "nvidia" with capabilities: [[gpu]]', Refused, "NVIDIA"),
        (400, "invalid reference format", Refused, "invalid reference format"),
        (500, "OCI runtime create failed: exec format error", Refused, "exec format error"),
        (404, "No such container: 0123", Unreachable, "No such container"),
        (409, "Conflict. The container name is already in use", Unreachable, "in use"),
        (503, "service unavailable", Unreachable, "service unavailable"),
    ],
)  # fmt: skip
def test_the_engines_no_in_the_contracts_words(
    status: int, message: str, kind: type[DriverError], says: str
) -> None:
    error = translate(status, message)
    assert type(error) is kind
    assert says in str(error)


def test_the_servers_own_disk_is_part_of_it() -> None:
    with pytest.raises(NoRoom), in_contract_words():
        raise OSError(28, "No space left on device")
    with pytest.raises(Unreachable, match="Read-only"), in_contract_words():
        raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("kind", [Refused, NoRoom, Unreachable])
def test_where_things_are_on_the_host_is_nobodys_business(kind: type[DriverError]) -> None:
    with pytest.raises(kind) as error, in_contract_words(["/srv/data", "/var/lib/docker"]):
        raise kind("mount: /srv/data/mounts/x failed, see /var/lib/docker/overlay2/y and /etc/fstab")
    assert str(error.value) == "mount: …/mounts/x failed, see …/overlay2/y and /etc/fstab"


def test_where_published_ports_are_probed() -> None:
    assert probe_host("0.0.0.0") == probe_host("") == "127.0.0.1"
    assert probe_host("192.0.2.7") == "192.0.2.7"
