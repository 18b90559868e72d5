"""Where the process begins: as quickly as it can, and without a traceback where it is stopped at once."""

from __future__ import annotations

import gc
import sys

# What is imported stays: to look through it again and again takes a tenth of a short command's time. The
# server sets its own.
GC_THRESHOLD = 50_000
INTERRUPTED = 130  # as cli.failures.Exit, which is not there yet


def main() -> None:
    gc.set_threshold(GC_THRESHOLD)
    try:
        from tidemill.root import app
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    app()


if __name__ == "__main__":
    main()
