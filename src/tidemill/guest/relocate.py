"""Makes Debian's programs live in one folder, in an image that may have no library, or another's.

Each gets our own loader and finds our own libraries before the image's, whatever the image's
LD_LIBRARY_PATH says. And the C library's view of the image is narrowed:

- no program of ours obeys the image's /etc/nsswitch.conf, which may name modules of another C
  library, to be loaded into ours;
- dropbear's own copy of the C library reads accounts and valid shells from files that ``init``
  keeps (/run/tm/pw, /run/tm/sh). So root can enter an image without accounts, with a shell that
  is missing or not allowed, or with a home that others can write to, and neither the image's
  accounts nor the user's authorized_keys are edited for that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tidemill.guest.installed import MOUNT
from tidemill.model.errors import Misconfigured

LIBRARIES = "lib"
SSH_LIBRARIES = "ssh-lib"  # searched first by dropbear: its own C library

_C_LIBRARY = "libc.so.6"
_NSSWITCH = ("/etc/nsswitch.conf", f"{MOUNT}/nss")
_ACCOUNTS = (("/etc/passwd", "/run/tm/pw"), ("/etc/shells", "/run/tm/sh"))


def relocate(unpacked: Path, made: Path) -> None:
    """Copy the libraries that ``made/bin/{dropbear,sftp-server}`` need, and point these at them.

    ``unpacked`` holds Debian packages, patchelf among them.
    Raises Misconfigured when a library is missing or the C library is not as expected.
    """
    patchelf = _Patchelf(unpacked)
    libraries = made / LIBRARIES
    ssh_libraries = made / SSH_LIBRARIES
    libraries.mkdir()
    ssh_libraries.mkdir()
    programs = {name: made / "bin" / name for name in ("dropbear", "sftp-server")}
    loaders = {patchelf.interpreter(program) for program in programs.values()}
    _copy_needed(patchelf, unpacked, programs.values(), libraries, loaders)
    _replace(libraries / _C_LIBRARY, [_NSSWITCH])
    shutil.copy2(libraries / _C_LIBRARY, ssh_libraries / _C_LIBRARY)
    _replace(ssh_libraries / _C_LIBRARY, _ACCOUNTS)
    _replace(made / "bin" / "busybox", [_NSSWITCH])
    (made / "nss").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    for name, program in programs.items():
        loader = f"{MOUNT}/{LIBRARIES}/{Path(patchelf.interpreter(program)).name}"
        folders = [LIBRARIES] if name != "dropbear" else [SSH_LIBRARIES, LIBRARIES]
        patchelf.point(program, loader, ":".join(f"{MOUNT}/{folder}" for folder in folders))


class _Patchelf:
    """Debian's patchelf, run from where it was unpacked."""

    def __init__(self, unpacked: Path) -> None:
        self._program = unpacked / "usr/bin/patchelf"

    def interpreter(self, program: Path) -> str:
        return self._run("--print-interpreter", str(program)).strip()

    def needed(self, file: Path) -> list[str]:
        return self._run("--print-needed", str(file)).split()

    def point(self, program: Path, interpreter: str, path: str) -> None:
        # An rpath and not a runpath: it goes before LD_LIBRARY_PATH, and libraries inherit it.
        self._run("--set-interpreter", interpreter, "--force-rpath", "--set-rpath", path, str(program))

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._program, *arguments], check=True, capture_output=True, text=True, errors="replace"
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise Misconfigured(
                "The guest cannot be built: patchelf does not run on this machine.",
                detail=str(getattr(error, "stderr", error)),
            ) from None
        return done.stdout


def _copy_needed(
    patchelf: _Patchelf, unpacked: Path, programs: Iterable[Path], libraries: Path, loaders: Iterable[str]
) -> None:
    available = _libraries(unpacked)
    wanted = {Path(loader).name for loader in loaders}
    for program in programs:
        wanted.update(patchelf.needed(program))
    done: set[str] = set()
    while wanted:
        name = wanted.pop()
        done.add(name)
        if name not in available:
            raise Misconfigured(f"The guest cannot be built: no package that it is made of has {name}.")
        target = libraries / name
        shutil.copyfile(available[name], target)
        target.chmod(0o755)
        wanted.update(set(patchelf.needed(target)) - done)


def _libraries(unpacked: Path) -> dict[str, Path]:
    """Every shared library in the unpacked packages, by file name."""
    found: dict[str, Path] = {}
    for folder, _, names in os.walk(unpacked):
        for name in names:
            path = Path(folder, name)
            if ".so" in name and path.is_file():
                found.setdefault(name, path)
    return found


def _replace(file: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Replace constant strings of a compiled file by ones that are not longer."""
    content = file.read_bytes()
    for old, new in pairs:
        before = b"\0" + old.encode() + b"\0"
        after = b"\0" + new.encode().ljust(len(old), b"\0") + b"\0"
        if len(after) != len(before) or before not in content:
            raise Misconfigured(
                f"The guest cannot be built: {file.name} of this Debian does not read {old} by that name."
            )
        content = content.replace(before, after)
    file.write_bytes(content)
