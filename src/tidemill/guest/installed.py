"""A built guest as a driver sees it: what to mount, what to start, which files to write.

Satisfies ``Guest`` of the driver contract by shape alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.guest.host_key import dropbear_private_key

MOUNT = "/.tidemill"
FILES_MOUNT = f"{MOUNT}/instance"
INIT_EXIT_PATH = "/var/lib/tidemill/init.exit"
INIT_LOG_PATH = "/var/log/tidemill/init.log"


@dataclass(slots=True)
class InstalledGuest:
    """The guest at ``folder``, as ``build`` returned it.

    The container must be run as user 0, in a pid namespace of its own where ``command`` is the
    first process (no ``--init`` of the engine), with a system disk it can write to.
    """

    folder: Path
    mount: str = MOUNT
    files_mount: str = FILES_MOUNT
    command: tuple[str, ...] = (f"{MOUNT}/bin/tini", "--", f"{MOUNT}/init")
    init_exit_path: str = INIT_EXIT_PATH

    def files(
        self,
        *,
        authorized_keys: Sequence[str],
        host_key: bytes,
        init_script: str,
        notices: Sequence[str] = (),
        access: Mapping[str, str] = {},
    ) -> Mapping[str, bytes]:
        """The instance's own files by name: to be written with mode 0600, each by one rename.

        ``authorized_keys`` are lines in OpenSSH's format, ``host_key`` is an ed25519 seed of 32
        bytes, ``init_script`` is "" for none; its lines may end as a web form ends them. Each of
        ``notices`` is an instant, a kind and a text; they are shown at interactive logins, and so is a
        file ``motd`` beside them. ``access`` is how the API is called from inside, by names and values of
        one line each.
        Raises ValueError when a key or notice is more than one line or the seed has another length.
        """
        lines = (*authorized_keys, *notices, *access.values())
        if any(set(line) & {"\n", "\r", "\0"} for line in lines):
            raise ValueError("an authorized key, a notice or a value is one line")
        files = {
            "authorized_keys": "".join(f"{line}\n" for line in authorized_keys).encode(),
            "host_key": dropbear_private_key(host_key),
        }
        if init_script:
            files["init_script"] = init_script.replace("\r\n", "\n").encode()
        if notices:
            files["notices"] = "".join(f"{line}\n" for line in notices).encode()
        if access:
            files["api"] = "".join(f"{name}={value}\n" for name, value in access.items()).encode()
        return files
