"""The contract's body from a file to a shell by the printed line: the command, the real engine, real ssh."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journeys.running import Server, Tenant
from tests.journeys.visiting import Person

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.databases("sqlite")]

# The example of the contract's create call, as it is copied; ids are put in, nothing else is changed.
BODY = (
    '{"name":"test","imageId":"IMAGE","instanceTypeId":"TYPE","region":"REGION",'
    '"billing":{"chargeMode":"perHour","duration":1},"remoteStorages":[],'
    '"instanceConfiguration":{"extraDataDiskSizeDB":0,"enableCommonData":false,"enableDocker":false,'
    '"dockerStorageSize":0,"initScript":""},"isSpotInstance":false,"nodePorts":[7891]}'
)


@pytest.fixture(scope="module")
def server(shared_deployment: Callable[..., Server], guest: Path) -> Server:
    return shared_deployment(guest=guest).start()


@pytest.fixture(scope="module")
def user(server: Server, person: Person) -> Iterator[Tenant]:
    tenant = server.first_login()
    tenant.add_key(person.public_line, "laptop")
    yield tenant
    server.terminate_all(tenant)


def tidemill(user: Tenant, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    given = {"HOME": str(home), "TIDEMILL_URL": user.server.url, "TIDEMILL_TOKEN": user.token}
    return subprocess.run(
        [str(Path(sys.executable).with_name("tidemill")), *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False,
        env=inherited | given,
    )  # fmt: skip


def entered(person: Person, line: str, command: str) -> str:
    """What a command prints inside, by the printed line and whose key it is."""
    key = f"-i {person.key} -F /dev/null -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=10"
    host = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    done = subprocess.run(
        ["bash", "-c", f"{line.strip()} {key} {host} {shlex.quote(command)}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def test_the_contracts_body_from_a_file_to_a_shell(user: Tenant, person: Person, tmp_path: Path) -> None:
    offer = user.offer()
    text = BODY.replace("IMAGE", offer["imageId"]).replace("TYPE", offer["instanceTypeId"])
    text = text.replace("REGION", offer["region"])
    (tmp_path / "body.json").write_text(text)
    done = tidemill(user, tmp_path, "launch", "-f", str(tmp_path / "body.json"), "-y")
    assert done.returncode == 0, done.stderr
    assert entered(person, done.stdout, "id -un; hostname").split() == ["root", "test"]
    assert "There is no ssh key" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("test: ")]
    assert told[-1] == "test: Running"


def test_an_init_script_that_fails_is_told_and_the_instance_is_there(
    user: Tenant, person: Person, tmp_path: Path
) -> None:
    (tmp_path / "init.sh").write_text("sleep 2\necho done > /root/dataDisk/mark\nexit 3\n")
    words = ("launch", "scripted", "-t", "small", "-i", "debian", "--init", str(tmp_path / "init.sh"))
    done = tidemill(user, tmp_path, *words, "-e", "GREETING=it's me", "-y")
    assert done.returncode == 1, done.stderr
    assert "scripted: Init script" in done.stderr.splitlines()
    assert "scripted runs, but: The init script ended with exit code 3" in done.stderr
    assert entered(person, done.stdout, 'cat /root/dataDisk/mark; echo "$GREETING"') == "done\nit's me\n"
    row = next(
        each
        for each in json.loads(tidemill(user, tmp_path, "ls", "-o", "json").stdout)
        if each["instanceMetadata"]["name"] == "scripted"
    )
    assert row["instanceRuntimeInfo"]["status"] == "Running"
