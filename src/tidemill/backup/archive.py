"""The form of a backup: a tar file, compressed with gzip, of small parts and a manifest at its end.

Parts are written one after the other and never gone back to, so that a backup can go down a pipe. The
manifest names every part with its size, rows and SHA-256 and comes last: an archive that was cut short
has none, and does not pass for a whole one.

    tables/<table>/<number>.jsonl   rows, one JSON object a line; bytes are base64
    keys/<file>                     the keys that sign access tokens, and what keys of instances are made of
    tidemill.toml                   settings and catalogue, where there is such a file
    first-login.json                where it is still there
    manifest.json
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, BinaryIO, cast

from tidemill.model.errors import Misconfigured

FORMAT = 1
MANIFEST = "manifest.json"
PART_MOST = 256 * 2**20  # bytes; a part is held in memory
TABLE_PART = 2**20  # bytes after which a table's rows go on in the next part
COMPRESSION = 4
NAMES = re.compile(
    r"tables/[a-z_][a-z0-9_]*/[0-9]{6}\.jsonl|keys/token-[0-9]+\.pem|keys/instances\.secret|tidemill\.toml|first-login\.json"
)

Row = Mapping[str, Any]


class Damaged(Misconfigured):
    """The file is not, or no longer, what a backup wrote."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    size: int
    sha256: str
    rows: int = 0

    @property
    def table(self) -> str:
        """Whose rows it holds; "" for a file."""
        return self.name.split("/")[1] if self.name.startswith("tables/") else ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself.

    Attributes:
        format: of the archive. version: of tidemill. revision: of the schema.
        deployment: the label of what it runs. database: the product that it was read from.
        made_at: the instant of the database that it holds.
        tables: the columns of every table, with the kind of value that each holds.
        parts: everything else that is in the archive, in order.
    """

    format: int
    version: str
    revision: str
    deployment: str
    database: str
    made_at: datetime
    tables: Mapping[str, Mapping[str, str]]
    parts: tuple[Part, ...] = ()

    def rows(self) -> dict[str, int]:
        """How many rows there are of each table."""
        counted = dict.fromkeys(self.tables, 0)
        for part in self.parts:
            if part.table:
                counted[part.table] += part.rows
        return counted

    def files(self) -> list[str]:
        return [part.name for part in self.parts if not part.table]


class Writer:
    """Writes an archive into a file that need not be able to go back."""

    def __init__(self, file: BinaryIO, manifest: Manifest) -> None:
        self._manifest = manifest
        self._parts: list[Part] = []
        self._gzip = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=COMPRESSION, mtime=0)
        self._tar = tarfile.open(  # noqa: SIM115 - finish() ends it; one that fails is to stay without an end
            fileobj=self._gzip, mode="w|", format=tarfile.USTAR_FORMAT
        )

    def table(self, name: str, rows: Iterator[Row]) -> None:
        """Add every row of a table, a part at a time."""
        kinds = self._manifest.tables[name]
        lines: list[bytes] = []
        size = number = 0
        for row in rows:
            line = _line(kinds, row)
            lines.append(line)
            size += len(line)
            if size >= TABLE_PART:
                self.add(f"tables/{name}/{number:06}.jsonl", b"".join(lines), len(lines))
                lines, size, number = [], 0, number + 1
        if lines:
            self.add(f"tables/{name}/{number:06}.jsonl", b"".join(lines), len(lines))

    def add(self, name: str, content: bytes, rows: int = 0) -> None:
        self._parts.append(Part(name, len(content), hashlib.sha256(content).hexdigest(), rows))
        self._write(name, content)

    def finish(self) -> Manifest:
        """Write the manifest and what is still held back; the file itself is left open."""
        whole = replace(self._manifest, parts=tuple(self._parts))
        said = asdict(whole) | {"made_at": whole.made_at.isoformat()}
        self._write(MANIFEST, json.dumps(said, indent=1).encode())
        self._tar.close()
        self._gzip.close()
        return whole

    def _write(self, name: str, content: bytes) -> None:
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(content), 0o600
        about.mtime = int(self._manifest.made_at.timestamp())
        self._tar.addfile(about, io.BytesIO(content))


def parts(file: BinaryIO) -> Generator[tuple[str, bytes]]:
    """Every part with its content, the manifest last. Raises Damaged.

    Reading to the end proves the checksum of the compression too.
    """
    last = ""
    with _reading(), gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as tar:
            for about in tar:
                if last == MANIFEST or not (about.name == MANIFEST or NAMES.fullmatch(about.name)):
                    raise Damaged(f"it holds {about.name!r}, which no backup has there")
                if not about.isreg() or about.size > PART_MOST:
                    raise Damaged(f"its part {about.name} is not a file of a size that a backup writes")
                held = tar.extractfile(about)
                content = b"" if held is None else held.read()
                if len(content) != about.size:
                    raise Damaged("it was cut short")
                last = about.name
                yield about.name, content
        while rest := unpacked.read(2**20):
            if rest.strip(b"\0"):
                raise Damaged("something follows its end")
    if last != MANIFEST:
        raise Damaged("it was cut short: the manifest at its end is missing")


@contextmanager
def _reading() -> Generator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise Damaged(f"it is damaged or was cut short ({error})") from None


def manifest(content: bytes) -> Manifest:
    """What a manifest says. Raises Damaged, and Misconfigured for a format of a newer version."""
    try:
        said = cast("dict[str, Any]", json.loads(content))
        format = int(said["format"])
    except (ValueError, TypeError, KeyError):
        raise Damaged("its manifest cannot be read") from None
    if format != FORMAT:
        raise Misconfigured(
            f"its format {format} is not known to this version of tidemill, which has {FORMAT}"
        )
    try:
        return Manifest(
            format=format,
            version=str(said["version"]),
            revision=str(said["revision"]),
            deployment=str(said["deployment"]),
            database=str(said["database"]),
            made_at=datetime.fromisoformat(said["made_at"]),
            tables={str(name): dict(columns) for name, columns in said["tables"].items()},
            parts=tuple(
                Part(str(part["name"]), int(part["size"]), str(part["sha256"]), int(part["rows"]))
                for part in said["parts"]
            ),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Damaged("its manifest cannot be read") from None


def _line(kinds: Mapping[str, str], row: Row) -> bytes:
    values = {
        name: base64.b64encode(value).decode() if kinds[name] == "bytes" and value is not None else value
        for name, value in row.items()
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def rows_of(kinds: Mapping[str, str], content: bytes) -> list[Row]:
    """The rows of a part of a table with these columns. Raises Damaged."""
    try:
        found = [_row(kinds, json.loads(line)) for line in content.splitlines()]
    except (ValueError, TypeError) as error:
        raise Damaged(f"a row of it cannot be read ({type(error).__name__})") from None
    return found


def _row(kinds: Mapping[str, str], values: Any) -> Row:
    if not isinstance(values, dict) or cast("dict[str, Any]", values).keys() != kinds.keys():
        raise ValueError
    given = cast("dict[str, Any]", values)
    return {
        name: base64.b64decode(value, validate=True)
        if kinds[name] == "bytes" and value is not None
        else value
        for name, value in given.items()
    }
