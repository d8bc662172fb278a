"""The command line: parse, one library call, render. Every command lives in a file of its family beside this one.

`main` is the only place where errors become lines and exit codes. Nothing heavy is imported before a command's body.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer

from audiotag import __version__
from audiotag.cli import options
from audiotag.cli.batch import batch
from audiotag.cli.bench import bench
from audiotag.cli.convert import export, fuse
from audiotag.cli.doctor import doctor
from audiotag.cli.evaluate import evaluate
from audiotag.cli.events import events
from audiotag.cli.merge import merge
from audiotag.cli.models import labels, models
from audiotag.cli.predict import predict
from audiotag.cli.reformat import reformat
from audiotag.cli.report import report
from audiotag.cli.status import say
from audiotag.cli.train import refit, train
from audiotag.errors import EXTRA_OF_PACKAGE, AudiotagError, ExitCode, install_line
from audiotag.writers import output_error

# Newer Typer releases carry their own copy of click, older ones import it; both are reached from a public name.
_ClickError: Any = typer.BadParameter.__mro__[2]  # BadParameter, UsageError, ClickException

# Of what is written to files, `writers` and `journal` tell.
_STDOUT_IS_FULL = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="audiotag",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"audiotag {__version__}")
        raise typer.Exit


@app.callback()
def audiotag(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Tell what is in a recording.

    Example: audiotag predict clip.wav
    """
    options.set_verbosity(quiet=False, verbose=False)  # commands with -q or -v set theirs


# In the order of `--help`, which shows the one group after all commands.
for command in (
    predict, batch, events, report, merge, reformat, train, refit, evaluate, fuse, export, labels, doctor, bench
):  # fmt: skip
    app.command()(command)
app.add_typer(models)


def main() -> None:
    """Runs the program and ends the process with one of `ExitCode`."""
    _open_closed_streams()
    # `--debug` is taken anywhere on the line: people add it at the end of a command that has just failed.
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        sys.exit(_run(arguments, debug=debug))
    finally:
        _drop_what_cannot_be_written()


def _open_closed_streams() -> None:
    """Gives the null device for what the caller has closed (`2>&-`): no file opened later becomes a standard stream."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - the process closes it


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        code = app(arguments, standalone_mode=False, prog_name="audiotag") or ExitCode.OK
        sys.stdout.flush()
        return int(code)
    except BrokenPipeError:  # who reads has closed the pipe (`| head`)
        return ExitCode.OK
    except SystemExit as leaving:  # Typer's own answer to a closed pipe is exit code 1
        if isinstance(leaving.__context__, BrokenPipeError):
            return ExitCode.OK
        raise
    except KeyboardInterrupt:
        return _report("interrupted", ExitCode.INTERRUPTED)
    except typer.Abort:
        return _report("aborted", ExitCode.COULD_NOT_RUN)
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        for line in str(error.format_message()).splitlines():  # type: ignore[attr-defined]
            say(line)
        return ExitCode.USAGE
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        way_out = f" Try `{context.command_path} --help`." if context is not None else ""
        message = str(error.format_message()).strip()
        return _report(message + ("" if message.endswith((".", "?")) else ".") + way_out, ExitCode.USAGE)
    if isinstance(error, AudiotagError):
        return _report(str(error), error.exit_code)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRA_OF_PACKAGE:
        way_out = install_line(error.name)
        return _report(f"{error.name}: is not installed, and this command needs it. {way_out}", ExitCode.COULD_NOT_RUN)
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):  # mostly of a folder without permission
        where = os.fsdecode(error.filename)
        return _report(f"{where}: {error.strerror}. Check that it is there and may be used", ExitCode.COULD_NOT_RUN)
    if isinstance(error, OSError) and error.errno in _STDOUT_IS_FULL:
        return _explain(output_error("stdout", error))
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return _report(f"unexpected {what}. Run again with --debug and report what it shows", ExitCode.COULD_NOT_RUN)


def _report(message: str, code: ExitCode) -> int:
    say(f"audiotag: error: {' '.join(message.split())}")
    return code


def _drop_what_cannot_be_written() -> None:
    # Python would try once more to write it at exit, complain, and end with 120 instead of our exit code.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
