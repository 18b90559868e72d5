"""Debian packages without installing them: which versions, with which libraries, unpacked where.

The host's own package lists are used when they are there and good. When they are missing or too
old to download from, a private copy is fetched into the temporary folder: the host stays as it is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.model.errors import Misconfigured

_APT_GET = ("apt-get", "-q", "-o", "APT::Sandbox::User=root")
_LIBRARY_PREFIXES = ("lib", "zlib")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Packages and the versions of them that apt would install now, and how apt was asked."""

    versions: tuple[tuple[str, str], ...]
    options: tuple[str, ...]

    @property
    def names_and_versions(self) -> list[str]:
        return [f"{name}={version}" for name, version in self.versions]


def choose(roots: Iterable[str], work: Path) -> Chosen:
    """``roots`` and the libraries they need, at the versions apt prefers.

    ``work`` is a folder for temporary files. Raises Misconfigured without apt or without a network.
    """
    names = tuple(roots)
    found = _closure(names, ())
    if found is not None:
        return Chosen(found, ())
    options = _private_lists(work)
    found = _closure(names, options)
    if found is None:
        raise Misconfigured(
            "The guest cannot be built: apt knows no " + ", ".join(names) + ". Are Debian's own sources in "
            "/etc/apt?"
        )
    return Chosen(found, options)


def unpack(chosen: Chosen, work: Path) -> Path:
    """Download the packages and unpack them all into one folder below ``work``."""
    downloads = work / "downloads"
    downloads.mkdir()
    try:
        _download(chosen, downloads)
    except Misconfigured:
        if chosen.options:
            raise
        _download(Chosen(chosen.versions, _private_lists(work)), downloads)
    unpacked = work / "unpacked"
    unpacked.mkdir()
    for archive in sorted(downloads.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(unpacked)])
    return unpacked


def _download(chosen: Chosen, downloads: Path) -> None:
    _run(
        [*_APT_GET, *chosen.options, "download", *chosen.names_and_versions],
        cwd=downloads,
    )


def _private_lists(work: Path) -> tuple[str, ...]:
    """Fetch package lists of our own, and return the options that make apt use them."""
    lists = work / "lists"
    cache = work / "cache"
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    options = (
        "-o", f"Dir::State::lists={lists}",
        "-o", f"Dir::Cache={cache}",
        "-o", "Debug::NoLocking=1",
    )  # fmt: skip
    _run([*_APT_GET, *options, "update"])
    return options


def _closure(roots: Sequence[str], options: Sequence[str]) -> tuple[tuple[str, str], ...] | None:
    """Roots and the library packages they need, sorted; None when apt does not know them all."""
    versions: dict[str, str] = {}
    wanted = list(roots)
    while wanted:
        known = _show(wanted, options)
        if not set(wanted) <= known.keys():
            return None
        versions |= {name: version for name, (version, _) in known.items()}
        needed = {library for _, libraries in known.values() for library in libraries}
        wanted = sorted(needed - versions.keys())
    return tuple(sorted(versions.items()))


def _show(names: Sequence[str], options: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Version and needed library packages of each package that apt knows."""
    # It fails when one name is unknown, and tells of the others all the same.
    answer = _run(["apt-cache", *options, "show", "--no-all-versions", *names], must_succeed=False)
    known: dict[str, tuple[str, list[str]]] = {}
    for stanza in answer.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if "Package" in fields and "Version" in fields:
            dependencies = fields.get("Pre-Depends", "").split(",") + fields.get("Depends", "").split(",")
            libraries = [
                name
                for dependency in dependencies
                if (name := dependency.split("|")[0].split("(")[0].strip()).startswith(_LIBRARY_PREFIXES)
            ]
            known[fields["Package"]] = (fields["Version"], libraries)
    return known


def _run(command: list[str], *, cwd: Path | None = None, must_succeed: bool = True) -> str:
    """Run a program; return what it printed."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        raise Misconfigured(
            f"The guest cannot be built: there is no {command[0]} on this machine; it is built from Debian "
            "packages."
        ) from None
    if must_succeed and done.returncode != 0:
        raise Misconfigured(f"The guest cannot be built: {command[0]} failed.", detail=done.stderr)
    return done.stdout
