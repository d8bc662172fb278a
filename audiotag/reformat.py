"""The results of a finished run in another format, without tagging anything again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from audiotag.errors import DataError
from audiotag.results import Result, result_from_dict
from audiotag.writers import Output, open_writer

_HEADER = "audiotag"  # the key that no result has
_LIST_BEGINS, _LIST_ENDS, _EMPTY_LIST = b'"results": [', b"]}", b'"results": []}'


def reformat(lines: Iterable[bytes], name: str, output: Output, *, form: str, with_header: bool = False) -> int:
    """Writes every result of `lines` to `output` in the format `form`; gives their number.

    `lines` are what `--format ndjson` or `json` wrote, `name` is what messages call them. Scores and times stay as
    rounded as they were shown. One result is in memory at a time.

    Raises:
        DataError: a line is no result, or the last one is missing. What came before it is written.
    """
    records = _records(lines, name)
    number, first = next(records, (0, {}))
    header = first.get(_HEADER)
    writer = open_writer(form, output, header=header or {}, asked_for_header=with_header and header is not None)
    writer.begin()
    count = 0
    if first and header is None:
        writer.write(_result(first, name, number))
        count = 1
    for number, record in records:
        writer.write(_result(record, name, number))
        count += 1
    writer.end()
    return count


def _records(lines: Iterable[bytes], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file that has one a line, and their line numbers: of NDJSON, or of the JSON that we write."""
    in_list, number = False, 0
    for number, line in enumerate(lines, start=1):
        text = line.strip().removesuffix(b",")
        if number == 1 and line.rstrip().endswith(b","):  # the object of a JSON file begins with its header
            text, in_list = text + b"}", True
        elif text in (_LIST_ENDS, _EMPTY_LIST):
            in_list = False
        if text not in (b"", _LIST_BEGINS, _LIST_ENDS, _EMPTY_LIST):
            yield number, _parsed(text, name, number)
    if in_list:
        raise DataError(f"{name}: ends after line {number}, in the midst of its results. Finish the run with --resume")


def _parsed(text: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise _not_a_result(name, number) from error
    if not isinstance(record, dict):
        raise _not_a_result(name, number)
    return record


def _result(record: dict[str, Any], name: str, number: int) -> Result:
    try:
        return result_from_dict(record)
    except (KeyError, TypeError) as error:
        raise _not_a_result(name, number) from error


def _not_a_result(name: str, number: int) -> DataError:
    return DataError(f"{name}: line {number} is no result of audiotag. Give what --format ndjson or json wrote")
