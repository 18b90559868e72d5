"""Makes a small Debian base image without any image registry: mmdebstrap, piped to the engine.

Packages come from where this machine gets its own Debian packages; when it has no sources for
this release, from Debian's default mirror.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tidemill.model.errors import Misconfigured, Unavailable

NAME = "tidemill/debian:12"
_RELEASE = "bookworm"
_SUITES = frozenset((_RELEASE, f"{_RELEASE}-updates", f"{_RELEASE}-security"))
_PACKAGES = (
    "bash", "ca-certificates", "curl", "git", "htop", "iproute2", "iputils-ping", "less", "nano",
    "openssh-client", "procps", "python3", "rsync", "tmux", "unzip", "vim-tiny", "xz-utils",
)  # fmt: skip
_ENVIRONMENT = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    'CMD ["/bin/bash"]',
)
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*")
_KEPT = ("/usr/share/doc/*/copyright",)


def ensure(name: str = NAME) -> str:
    """Make sure that the engine has the base image; return its name. Does nothing when it is there.

    Takes about a minute and a network. Raises Misconfigured when a program is missing or the
    packages cannot be had, Unavailable when the engine gives no answer.
    """
    if _engine_has(name):
        return name
    with TemporaryFile() as told:
        made = _start([*_mmdebstrap(), _RELEASE, "-", *sources()], told)
        changes = [argument for change in _ENVIRONMENT for argument in ("--change", change)]
        try:
            taken = _docker("import", *changes, "-", f"{name}-unfinished", stdin=made.stdout)
        finally:
            if made.stdout:
                made.stdout.close()  # ends it, should the engine have let go before the end
            failed = made.wait()
        told.seek(0)
        story = told.read().decode(errors="replace")
    if failed:  # the engine took what came, whole or not
        _docker("image", "rm", f"{name}-unfinished")
        raise Misconfigured("The base image could not be made: mmdebstrap failed.", detail=story[-4000:])
    if taken.returncode != 0:
        raise Unavailable("The container engine did not take the base image.", detail=taken.stderr)
    _docker("tag", f"{name}-unfinished", name)
    _docker("image", "rm", f"{name}-unfinished")
    return name


def _mmdebstrap() -> list[str]:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    # The way out of this machine is not the image's: options are taken back out at the end.
    command += [f"--aptopt={line}" for line in _proxies()]
    command += [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
    command += [f"--dpkgopt=path-include={path}" for path in _KEPT]
    command.append(
        '--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/hostname "$1"/etc/resolv.conf'
    )
    # Smaller, and the same for everybody who makes it from the same packages.
    command.append('--customize-hook=rm -rf "$1"/var/log/* "$1"/var/cache/*.dat "$1"/var/cache/debconf/*-old')
    return command


def sources(apt: Path = Path("/etc/apt")) -> Iterator[str]:
    """The machine's own sources of this release, each as one ``deb`` line."""
    for file in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))):
        if file.is_file():
            yield from _one_line_sources(file.read_text(errors="replace"))
    for file in sorted(apt.glob("sources.list.d/*.sources")):
        yield from _stanza_sources(file.read_text(errors="replace"))


def _one_line_sources(text: str) -> Iterator[str]:
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[[^]]*\]\s+)?\S+\s+(\S+)", line)
        if found and found[1] in _SUITES:
            yield line.split("#")[0].strip()


def _stanza_sources(text: str) -> Iterator[str]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        key = fields.get("signed-by", "")
        options = f"[signed-by={key}] " if key.startswith("/") and len(key.split()) == 1 else ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                if suite in _SUITES:
                    components = " ".join(fields.get("components", "").split())
                    yield f"deb {options}{uri} {suite} {components}".rstrip()


def _proxies() -> Iterable[str]:
    """How this machine's apt gets out, as lines of its configuration."""
    try:
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line for line in dump.splitlines() if re.match(r'Acquire::https?::Proxy\S* "[^"]', line)]


def _engine_has(name: str) -> bool:
    found = _docker("image", "ls", "--quiet", name)
    if found.returncode != 0:
        raise Unavailable("The container engine gives no answer.", detail=found.stderr)
    return bool(found.stdout.strip())


def _docker(*arguments: str, stdin: IO[bytes] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments],
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        raise Misconfigured(
            "The base image cannot be made: there is no docker command on this machine."
        ) from None


def _start(command: list[str], told: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=told,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise Misconfigured(
            f"The base image cannot be made: install {command[0]}, the Debian package of that name."
        ) from None
