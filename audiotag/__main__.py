"""The command `audiotag`, which `python -m audiotag` is too."""

import os
import sys
import threading

from audiotag.errors import ExitCode


def main() -> None:
    """Runs the program; Ctrl-C may also come while it is imported."""
    try:
        from audiotag.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("audiotag: error: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    try:
        run()
    except SystemExit as leaving:
        # Where a thread still waits for a list, or walks a folder, Python cannot tidy up: soxr's binding told of that.
        is_waiting = any(thread.name.startswith("audiotag-") for thread in threading.enumerate())
        if is_waiting and isinstance(leaving.code, int):
            os._exit(leaving.code)
        raise


if __name__ == "__main__":
    main()
