"""A file of a running instance is read without trusting anything that the tenant can change."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from tests.drivers.docker.world import World, until

from tidemill.drivers.docker import inside
from tidemill.drivers.docker.driver import DockerDriver
from tidemill.drivers.docker.engine import Engine


def read(path: Path, most: int = 16) -> bytes:
    return inside.read(os.getpid(), str(path), most)


def test_a_plain_file_is_read_no_further_than_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    assert read(file) == b"0123456789"
    assert read(file, 4) == b"0123"


def test_no_link_is_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "file").write_bytes(b"1")
    (tmp_path / "folder").symlink_to(real)
    (real / "link").symlink_to(real / "file")
    for path in (tmp_path / "folder/file", real / "link"):
        assert path.read_bytes() == b"1"
        with pytest.raises(OSError, match=r"Not a directory|not a plain file"):
            read(path)


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="not a plain file"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        for _ in range(3):
            try:
                read(tmp_path / name)
            except FileNotFoundError:
                assert name == "none"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.docker
async def test_the_engine_is_never_asked_to_mount_a_running_instances_disks_again(
    world: World, driver: DockerDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its archive call does that, and can be raced into mounting over the host's own files."""
    asked: list[str] = []
    stream = Engine.stream

    @asynccontextmanager
    async def noting(
        engine: Engine, path: str, params: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.StreamReader]:
        asked.append(path)
        async with stream(engine, path, params) as body:
            yield body

    monkeypatch.setattr(Engine, "stream", noting)
    workload = world.workload(init_script="exit 7")
    await until(driver, workload.id, lambda seen: seen is not None and seen.init_exit == 7, ask=workload)
    assert [path for path in asked if "archive" in path] == []
