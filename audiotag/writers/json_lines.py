"""JSON, a line for each result: NDJSON, or the same lines as the items of one object."""

from __future__ import annotations

import json
from typing import Any

from audiotag.results import Result
from audiotag.writers.output import Output
from audiotag.writers.writer import Header


def json_bytes(value: Any) -> bytes:
    r"""One line of JSON in UTF-8; what no UTF-8 can hold (bytes of a file name, PEP 383) is escaped, as `\udcff`."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")


class NdjsonWriter:
    """A line of JSON for each result, after one for the header where there is one."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header

    def begin(self) -> None:
        """Writes the header."""
        if self._header is not None:
            self._line({"audiotag": self._header})

    def write(self, result: Result) -> None:
        """Writes a line."""
        self._line(result.to_dict())

    def end(self) -> None:
        """Nothing comes after the last line."""

    def _line(self, value: Any) -> None:
        self._out.write(json_bytes(value) + b"\n")
        self._out.flush()


class JsonWriter:
    """One object, `{"audiotag": header, "results": [...]}`, a line for each result."""

    def __init__(self, out: Output, *, header: Header | None) -> None:
        self._out, self._header = out, header or {}
        self._separator = b"\n"

    def begin(self) -> None:
        """Opens the object and its list."""
        self._out.write(b'{"audiotag": ' + json_bytes(self._header) + b',\n"results": [')
        self._out.flush()

    def write(self, result: Result) -> None:
        """Writes an item of the list."""
        self._out.write(self._separator + json_bytes(result.to_dict()))
        self._out.flush()
        self._separator = b",\n"

    def end(self) -> None:
        """Closes the list and the object."""
        self._out.write(b"\n]}\n")
        self._out.flush()
