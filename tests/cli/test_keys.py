"""``tidemill key`` and ``tidemill open`` as processes, against a server with simulated instances."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.cli.conftest import Machine
from tests.cli.on_docker import at
from tests.journeys.running import Server, Tenant
from tests.journeys.waiting import until


@pytest.fixture
def laptop(machine: Machine, simulated: Server, tenant: Tenant) -> Machine:
    machine.environ |= at(simulated, tenant.token)
    return machine


def test_keys_are_added_listed_and_removed(laptop: Machine, tmp_path: Path) -> None:
    assert (laptop.tidemill("key", "add").returncode, laptop.answer("key", "list", "-o", "name")) == (4, "")
    own = laptop.answer("key", "add", "--generate", "-o", "name").strip()
    again = laptop.tidemill("key", "add", "-o", "name")
    assert (again.returncode, again.stdout, "already" in again.stderr) == (0, f"{own}\n", True)
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a b", "-f", other], check=True)
    private = laptop.tidemill("key", "add", str(other))
    assert (private.returncode, "private" in private.stderr) == (2, True)
    assert "PRIVATE" not in private.stderr
    line = other.with_suffix(".pub").read_text()
    added = json.loads(laptop.answer("key", "add", "-", "-o", "json", stdin=line))
    assert (added["name"], added["publicKey"]) == ("a b", line.strip())
    assert laptop.tidemill("key", "add", str(tmp_path / "none")).returncode == 4
    assert laptop.tidemill("key", "add", "-", stdin="nonsense\n").returncode == 2
    head, first, second = laptop.answer("key", "list").splitlines()
    assert head.split() == ["NAME", "ID", "KIND", "FINGERPRINT", "ADDED", "HERE"]
    assert first.endswith(str(laptop.home / ".config/tidemill/ssh/id_ed25519"))
    assert second.startswith("a b ")
    assert added["fingerprint"] in second
    assert laptop.tidemill("key", "rm", "a b").returncode == 2  # nobody to ask
    assert laptop.tidemill("key", "rm", "-y", added["fingerprint"], own[:8]).returncode == 0
    assert laptop.answer("key", "list", "-o", "json") == "[]\n"


def test_an_api_key_may_add_none(machine: Machine, simulated: Server, tenant: Tenant) -> None:
    key = tenant.post("/api/user/apikey/create", {"name": "for ci"})["key"]
    machine.environ |= {"TIDEMILL_URL": simulated.url, "TIDEMILL_API_KEY": key}
    done = machine.tidemill("ssh", "first", "true")
    assert done.returncode == 9
    public = machine.home / ".config/tidemill/ssh/id_ed25519.pub"
    assert done.stderr.endswith(f"or have this key added: {public.read_text()}")


def test_open(laptop: Machine, tenant: Tenant, tmp_path: Path) -> None:
    opened, image = tmp_path / "opened", tenant.post("/api/resource/image/list")["images"][0]["imageName"]
    none = laptop.tidemill("open", "first")
    assert (none.returncode, none.stderr.count("ssh first -L 8888:localhost:8888")) == (4, 1)
    ids = [
        tenant.launch(name="web", image=image, nodePorts=[8000]),
        tenant.launch(name="webs", image=image, nodePorts=[8000, 9000]),
    ]
    try:
        urls = {}
        for id in ids:
            tenant.wait(id, "Running")
            urls[id] = f"http://127.0.0.1:{tenant.node_port(id, 8000)}"
        browser = tmp_path / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
        browser.chmod(0o755)
        laptop.environ["BROWSER"] = str(browser)
        assert laptop.answer("open", "web", "--print") == f"{urls[ids[0]]}\n"
        assert laptop.answer("open", "webs", "-o", "name").splitlines()[0] == urls[ids[1]]
        assert not opened.exists()
        assert laptop.answer("open", "web") == f"{urls[ids[0]]}\n"
        until("the browser was told", opened.exists)
        assert opened.read_text() == f"{urls[ids[0]]}\n"
        assert laptop.answer("open", "webs").split()[:4] == ["PORT", "ADDRESS", "8000", urls[ids[1]]]
        assert laptop.answer("open", "webs", "8000", "--print") == f"{urls[ids[1]]}\n"
        assert laptop.tidemill("open", "web", "1234").returncode == 4
    finally:
        for id in ids:
            tenant.do("terminate", id)
