"""What an operator reads when a backup or a restore is done."""

from __future__ import annotations

from tidemill.backup.archive import Manifest
from tidemill.backup.restore import Restored

NOT_IN_IT = "system disks (the engine's), data disks (disks/ in the data folder), logs of instances"


def taken(manifest: Manifest, file: str) -> str:
    return "\n".join(
        [
            f"{'The backup' if file == '-' else file} holds the deployment as of {_instant(manifest)}:",
            f"  {_rows(manifest)}",
            f"  {', '.join(manifest.files()) or 'no files'}",
            f"Not in it: {NOT_IN_IT}.",
            "It holds secrets (password hashes, host keys, init scripts, the keys that sign tokens): "
            "keep it where only you can read it.",
        ]
    )


def restored(done: Restored) -> str:
    lines = [
        f"The deployment is as it was at {_instant(done.manifest)}:",
        f"  {_rows(done.manifest)}",
        f"  data folder {done.folder}, database {done.database}",
    ]
    if done.aside:
        lines.append(f"What was there before is in {' and '.join(done.aside)}.")
    if done.other_own_file:
        lines.append(f"Your tidemill.toml stays in force; the backup's is {done.other_own_file}.")
    lines += [
        f"Not in the backup: {NOT_IN_IT}.",
        "Everybody has to log in again. API keys deleted since the backup are good again, those made since "
        "are not, and passwords are those of then.",
        "Start the server: it goes on with what still runs, starts nothing that does not, and reports what "
        "the backup does not know. `tidemill doctor` shows that, and has it removed when you say so.",
    ]
    return "\n".join(lines)


def _instant(manifest: Manifest) -> str:
    label = f"label {manifest.deployment}, " if manifest.deployment else ""
    by = f"{label}tidemill {manifest.version}, {manifest.database}"
    return f"{manifest.made_at:%Y-%m-%d %H:%M:%S} UTC ({by})"


def _rows(manifest: Manifest) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in manifest.rows().items() if count)
