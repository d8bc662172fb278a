"""Every output format as a whole text, and names that no format may trip over."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from audiotag.errors import OutputError, UsageError
from audiotag.results import ClipResult, Event, Failure, Result, Tag, WindowResult, result_from_dict
from audiotag.writers import (
    FORMATS,
    Output,
    open_output,
    open_writer,
    output_error,
    pick_format,
    run_header,
    visible,
)

HEADER = run_header(model="tiny", revision=None, sha256="ab12", parameters={"top_k": 2})

DOG = ClipResult(path="a/dog.wav", duration=5.0, tags=(Tag("Dog", 0.93), Tag("Musical instrument, plucked", 0.1234567)))
SILENCE = ClipResult(path="a/silence.wav", duration=3.2, tags=(), warning="ends in the middle of a frame")
BROKEN = Failure(path="a/broken.mp3", error="not decodable: no sync word")
# Numbers with more digits than are shown.
RIGHT = ClipResult(path="s.wav", duration=1.0001, start=2.0001, channel=1, tags=(Tag("Siren", 1.0),))
WINDOWS = ClipResult(
    path="w.wav", duration=9.0, tags=(Tag("Dog", 0.5),),
    windows=(
        WindowResult(start=0.0, end=5.11906, tags=(Tag("Dog", 0.75), Tag("Siren", 0.5))),
        WindowResult(start=5.11906, end=9.0, tags=()),
    ),
)  # fmt: skip
EVENTS = ClipResult(
    path="e.wav", duration=60.0, start=10.0, tags=(Tag("Siren", 0.75), Tag("Dog", 0.5)),
    events=(
        Event(label="Dog", start=10.0001, end=12.5001, score=0.5000001),
        Event(label="Siren", start=61.25, end=70.0, score=0.75),
    ),
)  # fmt: skip
RESULTS = (DOG, SILENCE, BROKEN, RIGHT, WINDOWS, EVENTS)

ODD_PATHS = (
    "with space.wav", "new\nline.wav", "carriage\rreturn.wav", 'quo"te.wav', "com,ma.wav", "ta\tb.wav",
    "\N{DOG FACE}.wav", "-dash.wav", "not utf-8 \udcff\udc80.wav", "[red]markup[/red].wav", "\x1b[31mred.wav",
    "line\u2028separator.wav", "\N{RIGHT-TO-LEFT OVERRIDE}gnp.wav",
)  # fmt: skip


def written(name: str, *results: Result, header: dict[str, Any] | None = None) -> bytes:
    memory = io.BytesIO()
    writer = open_writer(name, Output(memory, "memory"), header=header or HEADER, asked_for_header=header is not None)
    writer.begin()
    for result in results:
        writer.write(result)
    writer.end()
    return memory.getvalue()


def test_csv() -> None:
    assert written("csv", *RESULTS).decode() == (
        "path,status,start,end,channel,rank,label,score,error\n"
        "a/dog.wav,ok,0.000,5.000,,1,Dog,0.930000,\n"
        'a/dog.wav,ok,0.000,5.000,,2,"Musical instrument, plucked",0.123457,\n'
        "a/silence.wav,empty,0.000,3.200,,,,,ends in the middle of a frame\n"
        "a/broken.mp3,failed,,,,,,,not decodable: no sync word\n"
        "s.wav,ok,2.000,3.000,1,1,Siren,1.000000,\n"
        "w.wav,ok,0.000,5.119,,1,Dog,0.750000,\n"
        "w.wav,ok,0.000,5.119,,2,Siren,0.500000,\n"
        "e.wav,ok,10.000,12.500,,,Dog,0.500000,\n"
        "e.wav,ok,61.250,70.000,,,Siren,0.750000,\n"
    )


def test_tags_of_windows_are_rows_though_the_clip_has_none() -> None:
    windows = (
        WindowResult(start=0.0, end=5.0, tags=()),
        WindowResult(start=5.0, end=10.0, tags=(Tag("Siren", 0.9), Tag("Dog", 0.8))),
    )
    rare = ClipResult(path="rare.wav", duration=10.0, tags=(), windows=windows)
    nothing = ClipResult(path="nothing.wav", duration=5.0, tags=(), windows=windows[:1])
    assert written("csv", rare, nothing).decode().splitlines()[1:] == [
        "rare.wav,empty,5.000,10.000,,1,Siren,0.900000,",
        "rare.wav,empty,5.000,10.000,,2,Dog,0.800000,",
        "nothing.wav,empty,0.000,5.000,,,,,",
    ]


def test_tsv() -> None:
    assert written("tsv", DOG, BROKEN).decode() == (
        "path\tstatus\tstart\tend\tchannel\trank\tlabel\tscore\terror\n"
        "a/dog.wav\tok\t0.000\t5.000\t\t1\tDog\t0.930000\t\n"
        "a/dog.wav\tok\t0.000\t5.000\t\t2\tMusical instrument, plucked\t0.123457\t\n"
        "a/broken.mp3\tfailed\t\t\t\t\t\t\tnot decodable: no sync word\n"
    )


NDJSON = (
    '{"path": "a/dog.wav", "status": "ok", "duration": 5.0, "tags": [{"label": "Dog", "score": 0.93}, '
    '{"label": "Musical instrument, plucked", "score": 0.123457}]}\n'
    '{"path": "a/silence.wav", "status": "empty", "duration": 3.2, "tags": [], '
    '"warning": "ends in the middle of a frame"}\n'
    '{"path": "a/broken.mp3", "status": "failed", "error": "not decodable: no sync word"}\n'
    '{"path": "s.wav", "status": "ok", "duration": 1.0, "start": 2.0, "channel": 1, '
    '"tags": [{"label": "Siren", "score": 1.0}]}\n'
    '{"path": "w.wav", "status": "ok", "duration": 9.0, "tags": [{"label": "Dog", "score": 0.5}], "windows": '
    '[{"start": 0.0, "end": 5.119, "tags": [{"label": "Dog", "score": 0.75}, {"label": "Siren", "score": 0.5}]}, '
    '{"start": 5.119, "end": 9.0, "tags": []}]}\n'
    '{"path": "e.wav", "status": "ok", "duration": 60.0, "start": 10.0, "tags": [{"label": "Siren", "score": 0.75}, '
    '{"label": "Dog", "score": 0.5}], "events": [{"label": "Dog", "start": 10.0, "end": 12.5, "score": 0.5}, '
    '{"label": "Siren", "start": 61.25, "end": 70.0, "score": 0.75}]}\n'
)
HEADER_TEXT = (
    '{"audiotag": {"version": "VERSION", "schema": 1, "model": "tiny", "revision": null, "sha256": "ab12", '
    '"parameters": {"top_k": 2}}'
).replace("VERSION", HEADER["version"])


def test_ndjson() -> None:
    assert written("ndjson", *RESULTS).decode() == NDJSON


def test_ndjson_opens_with_the_header_that_was_asked_for() -> None:
    assert written("ndjson", BROKEN, header=HEADER).decode() == HEADER_TEXT + "}\n" + NDJSON.splitlines(True)[2]


def test_json_is_one_object() -> None:
    lines = ",\n".join(NDJSON.splitlines())
    assert written("json", *RESULTS).decode() == HEADER_TEXT + ',\n"results": [\n' + lines + "\n]}\n"


def test_json_of_no_result_is_an_empty_list() -> None:
    assert json.loads(written("json")) == {"audiotag": HEADER, "results": []}


def test_audacity() -> None:
    assert written("audacity", WINDOWS).decode() == "0.000\t5.119\tDog 0.750\n0.000\t5.119\tSiren 0.500\n"
    assert written("audacity", EVENTS).decode() == "10.000\t12.500\tDog 0.500\n61.250\t70.000\tSiren 0.750\n"


def test_audacity_tells_the_channel_of_a_label() -> None:
    assert written("audacity", RIGHT).decode() == "2.000\t3.000\tSiren 1.000 channel 1\n"


def test_audacity_takes_one_recording_only() -> None:
    with pytest.raises(UsageError, match="a label track belongs to one input"):
        written("audacity", DOG, RIGHT)


def test_raven() -> None:
    assert written("raven", BROKEN, RIGHT, WINDOWS, EVENTS).decode() == (
        "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tBegin Path\tFile Offset (s)\tLabel\tScore\n"
        "1\tSpectrogram 1\t2\t2.000\t3.000\ts.wav\t2.000\tSiren\t1.000000\n"
        "2\tSpectrogram 1\t1\t0.000\t5.119\tw.wav\t0.000\tDog\t0.750000\n"
        "3\tSpectrogram 1\t1\t0.000\t5.119\tw.wav\t0.000\tSiren\t0.500000\n"
        "4\tSpectrogram 1\t1\t10.000\t12.500\te.wav\t10.000\tDog\t0.500000\n"
        "5\tSpectrogram 1\t1\t61.250\t70.000\te.wav\t61.250\tSiren\t0.750000\n"
    )


@pytest.mark.parametrize("columns", ["20", "100"])
def test_table_off_a_terminal_has_no_colour_and_cuts_nothing(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert written("table", *RESULTS).decode().splitlines() == [
        "a/dog.wav  5.000 s",
        "  0.930000  ###################  Dog",
        "  0.123457  ##                   Musical instrument, plucked",
        "a/silence.wav  3.200 s  no tag  warning: ends in the middle of a frame",
        "a/broken.mp3  failed: not decodable: no sync word",
        "s.wav  1.000 s  channel 1",
        "  1.000000  ####################  Siren",
        "w.wav  9.000 s",
        "  0.000  5.119  0.750000  ###############  Dog",
        "  0.000  5.119  0.500000  ##########       Siren",
        "e.wav  60.000 s",
        "  10.000  12.500  0.500000  ##########       Dog",
        "  61.250  70.000  0.750000  ###############  Siren",
    ]
    path, label = "p" * 3000 + ".wav", "long word " * 300
    head, line = written("table", ClipResult(path=path, duration=1.0, tags=(Tag(label, 0.5),))).decode().splitlines()
    assert head == f"{path}  1.000 s"
    assert line.endswith(f"  {label}".rstrip())


NARROW = {
    "42": ["  0.930000  ###################  Dog", "  0.123457  ##                   Car alarm"],
    "41": ["  0.930000  Dog", "  0.123457  Car alarm"],
    "20": ["  0.930000  Dog", "  0.123457  Car", "            alarm"],
    "8": ["  0.930000  Dog", "  0.123457  Car", "            alarm"],
}


@pytest.mark.parametrize("columns", NARROW)
def test_on_a_narrow_terminal_bars_give_way_then_labels_fold_and_numbers_stay(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    writer = open_writer("table", Output(terminal, "terminal"), header=HEADER)
    writer.begin()
    writer.write(ClipResult(path="a", duration=1.0, tags=(Tag("Dog", 0.93), Tag("Car alarm", 0.1234567))))
    assert terminal.getvalue().startswith(b"\x1b[1ma\x1b[0m"), "in bold"
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue().decode()).splitlines()
    assert lines[-len(NARROW[columns]) :] == NARROW[columns]


def test_times_of_windows_are_aligned_in_the_table() -> None:
    windows = tuple(WindowResult(start=start, end=start + 5, tags=(Tag("Dog", 0.5),)) for start in (2.0, 98.5))
    result = ClipResult(path="w", duration=104.0, tags=(), windows=windows)
    assert written("table", result).decode().splitlines()[1:] == [
        "   2.000    7.000  0.500000  ##########  Dog",
        "  98.500  103.500  0.500000  ##########  Dog",
    ]


def test_parquet_has_the_columns_of_csv_with_types_and_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("audiotag.writers.parquet.ROWS_IN_GROUP", 4)
    odd = ClipResult(path="odd.wav", start=0.12345, duration=1 / 3, tags=(Tag("\ud83d", 2 / 3),))
    file = parquet.ParquetFile(io.BytesIO(written("parquet", odd, *RESULTS, Failure(path="\udcff", error="\udcff"))))
    assert file.num_row_groups == 3, "not all of a large table is held in memory"
    table = file.read()
    assert ",".join(table.column_names) == written("csv").decode().strip()
    assert json.loads(table.schema.metadata[b"audiotag"]) == HEADER
    rows = table.to_pylist()
    assert len(rows) == 11
    assert [rows[0][name] for name in ("start", "end", "label", "score")] == [0.123, 0.457, "\\ud83d", 0.666667]
    assert rows[2] == {
        "path": "a/dog.wav", "status": "ok", "start": 0.0, "end": 5.0, "channel": None, "rank": 2,
        "label": "Musical instrument, plucked", "score": 0.123457, "error": None,
    }  # fmt: skip
    assert rows[-1]["path"] == rows[-1]["error"] == "\\udcff"


def test_parquet_that_is_given_up_writes_nothing_more() -> None:
    pytest.importorskip("pyarrow")
    memory = io.BytesIO()
    writer = open_writer("parquet", Output(memory, "memory"), header=HEADER)
    writer.begin()
    writer.write(DOG)
    del writer  # as an error does; pyarrow then makes a whole file of what it has
    assert memory.getvalue() == b"PAR1"


def test_parquet_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiotag.writers.formats.find_spec", lambda name: None)
    with pytest.raises(OutputError, match=r"pip install 'audiotag-cli\[parquet\]'"):
        pick_format("parquet", None)


# --- odd names ---


@pytest.mark.parametrize("path", ODD_PATHS, ids=ascii)
@pytest.mark.parametrize(("name", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_separated_values_give_every_name_back(name: str, delimiter: str, path: str) -> None:
    result = ClipResult(path=path, duration=1.0, tags=(Tag(path, 0.5),))
    text = written(name, result).decode("utf-8", "surrogateescape")
    _, row = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    assert (row[0], row[6]) == (path, path)


@pytest.mark.parametrize("path", ODD_PATHS, ids=ascii)
@pytest.mark.parametrize("name", ["json", "ndjson"])
def test_json_gives_every_name_back_and_is_read_by_jq(name: str, path: str) -> None:
    data = written(name, Failure(path=path, error="e"))
    found = json.loads(data.decode("utf-8"))
    assert (found["results"][0] if name == "json" else found)["path"] == path
    assert ("\N{DOG FACE}".encode() in data) == ("\N{DOG FACE}" in path)
    subprocess.run(["jq", "-e", ".."], input=data, check=True, capture_output=True, timeout=10)


@pytest.mark.parametrize("path", ODD_PATHS, ids=ascii)
def test_the_table_shows_markup_and_control_characters_as_text(path: str) -> None:
    text = written("table", Failure(path=path, error=path)).decode("utf-8")
    assert visible(path) in text
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    assert len(text.splitlines()) == 1


def test_raw_bytes_of_a_name_come_out_as_they_were() -> None:
    assert b"\nnot utf-8 \xff.wav,failed," in written("csv", Failure(path="not utf-8 \udcff.wav", error="e"))


@pytest.mark.parametrize("name", ["csv", "tsv", "audacity", "raven"])
def test_a_label_that_is_half_a_character_is_written_escaped(name: str) -> None:
    event = Event(label="half \ud83d", start=0.0, end=1.0, score=0.5)
    result = ClipResult(path="a.wav", duration=1.0, tags=(Tag("half \ud83d", 0.5),), events=(event,))
    assert b"half \\ud83d" in written(name, result)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.path)
def test_a_result_comes_back_from_its_json(result: Result) -> None:
    shown = result.to_dict()
    assert result_from_dict(json.loads(json.dumps(shown))).to_dict() == shown


# --- records, suffixes, failures ---


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"parquet"}))
def test_every_record_is_flushed(name: str) -> None:
    class Pipe(io.BytesIO):
        n_seen = 0

        def flush(self) -> None:
            Pipe.n_seen = len(self.getvalue())

    pipe = Pipe()
    writer = open_writer(name, Output(pipe, "pipe"), header=HEADER)
    writer.begin()
    seen = []
    for _ in range(2):
        writer.write(DOG)
        seen.append(Pipe.n_seen)
        assert len(pipe.getvalue()) == Pipe.n_seen
    assert 0 < seen[0] < seen[1]


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("a.csv", "csv"), ("a.TSV", "tsv"), ("a.json", "json"), ("a.jsonl", "ndjson"), ("a.b.ndjson", "ndjson"),
        ("a.txt", "table"), ("a.labels.txt", "audacity"), ("a.selections.txt", "raven"), ("a.parquet", "parquet"),
    ],
)  # fmt: skip
def test_a_suffix_names_its_format(out: str, name: str) -> None:
    assert pick_format(None, Path(out)) == name


@pytest.mark.parametrize("out", ["a.xlsx", "a", ".csv.gz"])
def test_an_unknown_suffix_is_a_usage_error(out: str) -> None:
    with pytest.raises(UsageError, match=r"no format has the suffix|has no suffix to tell the format"):
        pick_format(None, Path(out))


def test_a_pipe_gets_ndjson() -> None:
    assert pick_format(None, None) == "ndjson"


def test_csv_has_no_place_for_a_header() -> None:
    with pytest.raises(UsageError, match=r"csv has no place for it\. Use json, ndjson or parquet$"):
        pick_format("csv", None, header=True)


def test_an_output_in_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="No such file or directory"),
        open_output(tmp_path / "a/b"),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOENT, "Make its folder first, or choose another place"),
        (errno.EACCES, "Choose a place where you may write"),
        (errno.EISDIR, "Choose a place where you may write"),
        (errno.ENOSPC, "Free some space or choose another place"),
    ],
)
def test_what_to_do_about_an_output_follows_from_what_is_wrong_with_it(number: int, way_out: str) -> None:
    told = output_error("a.csv", OSError(number, "wrong"))
    assert str(told) == f"a.csv: cannot be written: wrong. {way_out}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_full_disk_is_an_output_error(name: str) -> None:
    def write() -> None:
        with open_output(Path("/dev/full")) as output:
            writer = open_writer(name, output, header=HEADER)
            writer.begin()
            writer.write(DOG)
            writer.end()

    with pytest.raises(OutputError, match="No space left on device"):
        write()


def test_an_unbuffered_file_gets_all_that_it_takes_bit_by_bit() -> None:
    class Unbuffered(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(data[:5])

    unbuffered = Unbuffered()
    output = Output(unbuffered, "stdout")
    assert output.write(b"a line that is not torn\n") == 24
    assert unbuffered.getvalue() == b"a line that is not torn\n"


def test_a_full_pipe_that_does_not_block_is_an_output_error() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0) as pipe,
        pytest.raises(OutputError, match="stdout: cannot be written: Resource temporarily unavailable"),
    ):  # fmt: skip
        Output(cast("BinaryIO", pipe), "stdout").write(bytes(1 << 21))
