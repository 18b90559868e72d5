"""The guest, built once, and the three kinds of image that it must serve."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.guest.instance import Instance, Person, docker

from tidemill.guest import packages
from tidemill.guest.build import build
from tidemill.guest.installed import InstalledGuest


@pytest.fixture(scope="session")
def guest(guest_folder: Path) -> InstalledGuest:
    return InstalledGuest(build(guest_folder))


@pytest.fixture(scope="session")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person.with_new_key(tmp_path_factory.mktemp("person"))


def _import(files: dict[str, bytes | str]) -> str:
    """Make an image of files (bytes) and links (str) by path; return its name."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    name = f"tidemill-test-guest/{uuid.uuid4().hex[:12]}:1"
    docker("import", "-", name, input=archive.getvalue())
    return name


def _musl_files(guest: InstalledGuest, work: Path) -> dict[str, bytes | str]:
    """An image as Alpine is laid out: musl's loader, busybox, ash as root's shell; no glibc."""
    unpacked = packages.unpack(packages.choose(["musl"], work), work)
    (loader,) = unpacked.glob("lib/ld-musl-*.so.1")
    (library,) = unpacked.glob("lib/*/libc.so")
    applets = ("sh", "ash", "cat", "ls", "env", "id", "sleep", "kill", "tty", "test", "mkdir", "ps")
    return {
        f"lib/{loader.name}": library.read_bytes(),
        "bin/busybox": (guest.folder / "bin/busybox").read_bytes(),
        **{f"bin/{applet}": "/bin/busybox" for applet in applets},
        "etc/passwd": b"root:x:0:0:root:/root:/bin/ash\nnobody:x:65534:65534::/:/sbin/nologin\n",
        "etc/profile": b"export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        b'for script in /etc/profile.d/*.sh; do [ ! -r "$script" ] || . "$script"; done\n',
        "root/.keep": b"",
    }


@pytest.fixture(scope="session")
def images(
    request: pytest.FixtureRequest, guest: InstalledGuest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """From the kind of an image to its name; made when first asked for, removed at the end."""
    made: dict[str, str] = {}

    def image(kind: str) -> str:
        if kind == "debian":
            return request.getfixturevalue("base_image")
        if kind not in made:
            files = {
                "musl": lambda: _musl_files(guest, tmp_path_factory.mktemp("musl")),
                "busybox": lambda: {"bin/busybox": (guest.folder / "bin/busybox").read_bytes()},
                "nothing": lambda: {"readme": b"there is no program in this image\n"},
            }[kind]()
            made[kind] = _import(files)
        return made[kind]

    yield image
    for name in made.values():
        docker("image", "rm", name)


@pytest.fixture(scope="session")
def launch(
    guest: InstalledGuest,
    images: Callable[[str], str],
    person: Person,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Instance]:
    """Makes an instance of a kind of image; to be entered as a context."""
    folder = tmp_path_factory.mktemp("instances")

    def make(kind: str = "debian", **options: object) -> Instance:
        return Instance(guest, images(kind), folder, person, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def _running() -> Iterator[tuple[ExitStack, dict[str, Instance]]]:
    with ExitStack() as stack:
        yield stack, {}


@pytest.fixture(params=["debian", "musl", "nothing"])
def instance(
    request: pytest.FixtureRequest,
    launch: Callable[..., Instance],
    _running: tuple[ExitStack, dict[str, Instance]],
) -> Instance:
    """A running instance of each kind, shared by the tests that leave it as they found it."""
    stack, running = _running
    if request.param not in running:
        running[request.param] = stack.enter_context(launch(request.param))
    return running[request.param]
