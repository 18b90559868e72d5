"""Builds the guest folder from Debian packages, without touching the host.

Packages are downloaded and unpacked into a temporary folder; nothing is installed. What is built
lies at ``<folder>/guest-<recipe>-<packages>``, named by what it was made of, appears whole by one
rename, and is never changed or removed afterwards: instances that run keep the files they were
started with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tidemill.guest import packages, relocate
from tidemill.guest.installed import FILES_MOUNT, MOUNT
from tidemill.model.errors import Misconfigured

_HERE = Path(__file__).parent
_SCRIPTS = _HERE / "scripts"
_ROOTS = ("dropbear-bin", "openssh-sftp-server", "busybox-static", "tini")
_TOOLS = ("patchelf",)  # runs on the host, out of the temporary folder; does not go into the guest

# The programs that would be wrong to find on the PATH of an image that has no tools of its own:
# they would lie about what the image is, or are the business of its first process.
_NO_APPLETS = frozenset(
    ("busybox", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "init", "linuxrc", "halt", "poweroff", "reboot")
)

# What people type, found on the PATH behind all that the image has.
_COMMANDS = frozenset(("tidemill",))


def build(folder: Path, *, update: bool = False) -> Path:
    """Make sure that ``folder`` holds a guest, and return that guest's own folder in it.

    A guest of the present recipe that is there already is returned as it is, in milliseconds and
    without a look at the packages; with ``update`` it is built anew when Debian has newer ones.
    Raises Misconfigured when the packages cannot be had or are not as expected.
    """
    recipe = _recipe()
    if not update and (there := _newest(folder, recipe)):
        return there
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as temporary:
        work = Path(temporary)
        chosen = packages.choose((*_ROOTS, *_TOOLS), work)
        target = folder / f"guest-{recipe}-{_short_hash(chosen.names_and_versions)}"
        if target.is_dir():
            return target
        unpacked = packages.unpack(chosen, work)
        made = work / "guest"
        _assemble(unpacked, made)
        (made / "packages").write_text("".join(f"{line}\n" for line in chosen.names_and_versions))
        os.sync()  # the name says that it is whole: so it must be, after a power cut as well
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else another process built the same at the same time
                raise
    return target


def built(folder: Path) -> Path | None:
    """The guest of the present recipe that is there already."""
    return _newest(folder, _recipe())


def _recipe() -> str:
    """A hash of everything of ours that the result depends on."""
    sources = [*sorted(_SCRIPTS.iterdir()), *(_HERE / f"{name}.py" for name in ("build", "relocate"))]
    return _short_hash(part for source in sources for part in (source.name, source.read_bytes().hex()))


def _short_hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _newest(folder: Path, recipe: str) -> Path | None:
    found = [path for path in folder.glob(f"guest-{recipe}-*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _assemble(unpacked: Path, made: Path) -> None:
    programs = made / "bin"
    programs.mkdir(parents=True)
    made.chmod(0o755)
    for name, source in {
        "busybox": "bin/busybox",
        "tini": "usr/bin/tini-static",
        "dropbear": "usr/sbin/dropbear",
        "sftp-server": "usr/lib/openssh/sftp-server",
    }.items():
        _install(_find(unpacked, source), programs / name)
    commands = made / "commands"
    commands.mkdir()
    for source in _SCRIPTS.iterdir():
        _install(source, (commands if source.name in _COMMANDS else made) / source.name)
    relocate.relocate(unpacked, made)
    (made / Path(FILES_MOUNT).relative_to(MOUNT)).mkdir()
    applets = made / "applets"
    applets.mkdir()
    for applet in subprocess.run(
        [programs / "busybox", "--list"], check=True, capture_output=True, text=True
    ).stdout.split():
        if applet not in _NO_APPLETS:
            (applets / applet).symlink_to(f"{MOUNT}/bin/busybox")


def _find(unpacked: Path, path: str) -> Path:
    """The unpacked file that is at ``/path`` or ``/usr/path`` of a Debian system."""
    for candidate in (unpacked / path, unpacked / "usr" / path):
        if candidate.is_file():
            return candidate
    raise Misconfigured(f"The guest cannot be built: this Debian's packages have no /{path}.")


def _install(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)
