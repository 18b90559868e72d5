"""The guest is built from packages, whole or not at all, and left alone afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidemill.drivers.contract import Guest
from tidemill.guest import base_image, packages
from tidemill.guest.build import build
from tidemill.guest.installed import InstalledGuest
from tidemill.model.errors import Misconfigured, Unavailable

pytestmark = pytest.mark.docker  # not the engine, but a Debian with a network, as those tests need


def _snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_it_is_what_a_driver_expects(guest: InstalledGuest) -> None:
    seen: Guest = guest
    assert (seen.folder / "bin/tini").is_file()
    assert (guest.folder / "instance").is_dir()
    assert not list((guest.folder / "instance").iterdir())
    assert all(path.is_symlink() or path.stat().st_mode & 0o004 for path in guest.folder.rglob("*"))


def test_a_second_time_it_needs_nothing_and_changes_nothing(
    guest: InstalledGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _snapshot(guest.folder.parent)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert build(guest.folder.parent) == guest.folder
    assert _snapshot(guest.folder.parent) == before


def test_an_update_without_news_changes_nothing(guest: InstalledGuest) -> None:
    before = _snapshot(guest.folder)
    assert build(guest.folder.parent, update=True) == guest.folder
    assert _snapshot(guest.folder) == before


def test_two_at_once_make_one_and_leave_an_older_one_alone(guest: InstalledGuest, tmp_path: Path) -> None:
    older = tmp_path / "guest-000000000000-000000000000"
    (older / "bin").mkdir(parents=True)
    program = "import sys, pathlib, tidemill.guest.build as b; b.build(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: subprocess.run(command, check=False), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    assert build(tmp_path) == tmp_path / guest.folder.name
    assert {path.name for path in tmp_path.iterdir()} == {older.name, guest.folder.name}
    assert (older / "bin").is_dir()


def test_without_apt_it_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Misconfigured, match="no apt-cache on this machine"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_package_lists_gets_private_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "host"
    (lists / "partial").mkdir(parents=True)
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::State::lists "{lists}";\nDir::Cache "{tmp_path}/cache";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    chosen = packages.choose(["tini"], tmp_path)
    assert "tini" in dict(chosen.versions)
    assert (packages.unpack(chosen, tmp_path) / "usr/bin/tini-static").is_file()
    assert [path.name for path in lists.iterdir()] == ["partial"], "the machine's own are as they were"


def test_an_unknown_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="tidemill-no-such-package"):
        packages.choose(["tidemill-no-such-package"], tmp_path)


ONE_LINE = """
# deb http://commented.example bookworm main
deb http://one.example/debian bookworm main contrib # as it comes
deb [signed-by=/k.gpg arch=amd64] http://two.example/debian bookworm-updates main
deb-src http://three.example/debian bookworm main
deb http://four.example/debian trixie main
deb http://five.example/apt cloud-tools-bookworm main
"""
STANZAS = """
# a comment
Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://three.example
Suites: bookworm
Components: main

Types: deb
URIs: http://four.example
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
"""


def test_sources_are_the_machines_own_for_this_release(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(STANZAS)
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    assert list(base_image.sources(tmp_path)) == [
        "deb http://one.example/debian bookworm main contrib",
        "deb [signed-by=/k.gpg arch=amd64] http://two.example/debian bookworm-updates main",
        f"deb {key}http://one.example/debian bookworm main contrib",
        f"deb {key}http://one.example/debian bookworm-updates main contrib",
        f"deb {key}http://two.example/debian bookworm main contrib",
        f"deb {key}http://two.example/debian bookworm-updates main contrib",
        "deb http://four.example bookworm-security main",
    ]


def test_a_base_image_that_is_there_is_not_made_again(
    images: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = images("nothing")
    found = subprocess.run(["which", "docker"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "docker").symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert base_image.ensure(name) == name
    with pytest.raises(Misconfigured, match="install mmdebstrap"):
        base_image.ensure("tidemill-test-guest/not-there:1")


def test_without_an_engine_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(Unavailable, match="engine gives no answer"):
        base_image.ensure()
