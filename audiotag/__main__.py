"""The command `audiotag`, which `python -m audiotag` is too."""

import sys

from audiotag.errors import ExitCode


def main() -> None:
    """Runs the program; Ctrl-C may also come while it is imported."""
    try:
        from audiotag.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("audiotag: error: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
