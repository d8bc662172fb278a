"""Pages that hold figures of a script between two markers, so that a run of the script can write them anew."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

END = "<!-- end of figures -->"


def begin_of(script: str) -> str:
    """The marker above what `tests/SCRIPT` writes."""
    return f"<!-- figures of tests/{script} -->"


def between_markers(text: str, script: str, lines: Iterable[str]) -> str:
    """The text with these lines between the script's markers; a text without them stays as it is."""
    before, begin, rest = text.partition(begin_of(script))
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}" if begin and end else text


def write_between_markers(page: Path, script: str, lines: Iterable[str]) -> None:
    """Writes them into a page."""
    page.write_text(between_markers(page.read_text(encoding="utf-8"), script, lines), encoding="utf-8")
