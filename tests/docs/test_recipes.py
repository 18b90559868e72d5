"""The boxes of docs/recipes.md, run as a person would, each recipe from top to bottom on the real engine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli.conftest import Machine
from tests.cli.on_docker import at, deployment
from tests.journeys.running import SMALL, Server, Tenant, free_port

pytestmark = [pytest.mark.docker, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/recipes.md").read_text()
RECIPES = {
    part.partition("\n")[0]: "\n".join(re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
    for part in PAGE.split("\n## ")[1:]
}
TRAIN = 'import pathlib\npathlib.Path("model.txt").write_text("trained\\n")\n'


def _address() -> str:
    """An address of this machine that is not its loopback: containers reach it from any network."""
    found = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    return next(each for each in found if ":" not in each)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, guest_folder: Path, base_image: str) -> Iterator[Server]:
    """One that instances reach, too."""
    tables = {"type": [SMALL], "image": [{"name": "Debian 12", "reference": base_image}]}
    port = free_port()
    with deployment(
        tmp_path_factory.mktemp("recipes"),
        guest_folder,
        host="0.0.0.0",
        port=port,
        settings={"instance_url": f"http://{_address()}:{port}"},
        tables=tables,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def user(server: Server) -> Tenant:
    return server.first_login()


@dataclass
class Desk:
    """A folder to work in, on a machine of somebody who is logged in."""

    machine: Machine
    folder: Path

    def follow(self, recipe: str) -> str:
        """What a recipe prints, each of whose commands must succeed."""
        done = subprocess.run(
            ["sh", "-eu"],
            input=RECIPES[recipe],
            cwd=self.folder,
            env=self.machine.given,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def desk(tmp_path: Path, server: Server, user: Tenant) -> Iterator[Desk]:
    """OpenSSH looks for ~/.ssh by the list of accounts, not by HOME: here it is told."""
    programs, folder = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    folder.mkdir()
    ssh = programs / "ssh"
    ssh.write_text('#!/bin/sh\n[ -e ~/.ssh/config ] || exec /usr/bin/ssh "$@"\n')
    ssh.write_text(ssh.read_text() + 'exec /usr/bin/ssh -F ~/.ssh/config "$@"\n')
    ssh.chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    (folder / "train.py").write_text(TRAIN)
    (folder / "dataset").mkdir()
    (folder / "dataset/part").write_text("12345")
    yield Desk(Machine(tmp_path, {**at(server, user.token), "PATH": path}), folder)
    server.terminate_all(user)


def test_there_are_five() -> None:
    assert len(RECIPES) == 5
    assert all(RECIPES.values())


def test_train_and_stop(desk: Desk) -> None:
    said = desk.follow("Train, and stop when it is done")
    assert (desk.folder / "model.txt").read_text() == "trained\n"
    assert said.endswith("train\n")


def test_spot_and_go_on(desk: Desk) -> None:
    assert desk.follow("Spot: be interrupted, and go on").endswith("finished\n")


def test_night_tide(desk: Desk) -> None:
    assert desk.follow("A batch in the night tide").endswith("the batch runs at low tide\n")


def test_names_for_editors(desk: Desk) -> None:
    assert "editor\n" in desk.follow("VS Code, JetBrains, rsync")
    (kept,) = (desk.machine.home / ".config/tidemill/ssh/servers").iterdir()
    assert "Host" not in kept.read_text()


def test_data_in_and_results_out(desk: Desk) -> None:
    desk.follow("A data set in, results out")
    assert (desk.folder / "results/size").read_text().strip() == "5"
    assert (desk.folder / "size.txt").read_text().strip() == "5"
