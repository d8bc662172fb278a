"""The results of a finished run in another format, without tagging anything again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from audiotag.errors import DataError
from audiotag.results import Result, result_from_dict
from audiotag.writers import Output, open_writer

_HEADER, _RESULTS = "audiotag", "results"  # keys that no result has
_LIST_BEGINS, _LIST_ENDS, _EMPTY_LIST = b'"results": [', b"]}", b'"results": []}'
_NOT_SPACE = re.compile(r"\S")

_Placed = tuple[str, dict[str, Any]]  # an object, and where it stands, such as "line 3"


def reformat(lines: Iterable[bytes], name: str, output: Output, *, form: str, with_header: bool = False) -> int:
    """Writes every result of `lines` to `output` in the format `form`; gives their number.

    `lines` are what `--format ndjson` or `json` wrote, `name` is what messages call them. Scores and times stay as
    rounded as they were shown. One result is in memory at a time; all are where another program laid out the JSON.

    Raises:
        DataError: a line is no result, or the last one is missing. What came before it is written.
    """
    records = _records(iter(lines), name)
    first = next(records, None)
    header = None if first is None else first[1].get(_HEADER)
    writer = open_writer(form, output, header=header or {}, asked_for_header=with_header and header is not None)
    writer.begin()
    if first is not None and header is None:
        records = chain((first,), records)
    count = 0
    for place, record in records:
        writer.write(_result(record, name, place))
        count += 1
    writer.end()
    return count


def _records(lines: Iterator[bytes], name: str) -> Iterator[_Placed]:
    """The objects of a file, without the envelope that may be around them: first the header, if it has one."""
    first = next(lines, b"")
    all_lines = chain((first,), lines)
    if first.strip()[:1] in (b"{", b"") and not _is_whole(first):
        return _records_of_text(b"".join(all_lines), name)
    return _records_of_lines(all_lines, name)


def _is_whole(first: bytes) -> bool:
    """Whether the first line is an object of its own: a result, or a header, after which a comma may stand."""
    text = first.strip()
    try:
        return _RESULTS not in json.loads(text[:-1] + b"}" if text.endswith(b",") else text)
    except (ValueError, RecursionError):
        return False


def _records_of_text(data: bytes, name: str) -> Iterator[_Placed]:
    """The objects of JSON on any lines, as `jq` and `json.dump` lay it out: one envelope, or results in a row."""
    number = 0
    for value in _values(data, name):
        records = [value]
        if isinstance(value, dict) and _RESULTS in value:
            if _HEADER in value:
                yield "the header", {_HEADER: value[_HEADER]}
            records = value[_RESULTS] if isinstance(value[_RESULTS], list) else [None]
        for record in records:
            number += 1
            if not isinstance(record, dict):
                raise _not_a_result(name, f"result {number}")
            yield f"result {number}", record


def _values(data: bytes, name: str) -> Iterator[Any]:
    decoder, at = json.JSONDecoder(), 0
    try:
        text = data.decode("utf-8")
        while (begin := _NOT_SPACE.search(text, at)) is not None:
            value, at = decoder.raw_decode(text, begin.start())
            yield value
    except json.JSONDecodeError as error:
        raise _not_a_result(name, f"line {error.lineno}") from error
    except RecursionError as error:
        raise _not_a_result(name, "its JSON") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not UTF-8. Give what --format ndjson or json wrote") from error
    except ValueError as error:  # a number of more digits than Python takes
        raise _not_a_result(name, "its JSON") from error


def _records_of_lines(lines: Iterable[bytes], name: str) -> Iterator[_Placed]:
    """The objects of a file that has one a line: of NDJSON, or of the JSON that we write."""
    in_list, number = False, 0
    for number, line in enumerate(lines, start=1):
        text = line.strip().removesuffix(b",")
        if number == 1 and line.rstrip().endswith(b","):  # the object of a JSON file begins with its header
            text, in_list = text + b"}", True
        elif text in (_LIST_ENDS, _EMPTY_LIST):
            in_list = False
        if text not in (b"", _LIST_BEGINS, _LIST_ENDS, _EMPTY_LIST):
            yield f"line {number}", _parsed(text, name, number)
    if in_list:
        raise DataError(f"{name}: ends after line {number}, in the midst of its results. Finish the run with --resume")


def _parsed(text: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_a_result(name, f"line {number}") from error
    if not isinstance(record, dict):
        raise _not_a_result(name, f"line {number}")
    return record


def _result(record: dict[str, Any], name: str, place: str) -> Result:
    try:
        return result_from_dict(record)
    except (KeyError, TypeError) as error:
        raise _not_a_result(name, place) from error


def _not_a_result(name: str, place: str) -> DataError:
    return DataError(f"{name}: {place} is no result in JSON. Give what --format ndjson or json wrote")
