"""Thresholds of single labels: the file, what it does to tags, and every way it can be wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, chirp, tone

from audiotag.errors import OutputError, UsageError
from audiotag.labels import LabelSet
from audiotag.options import TagOptions
from audiotag.thresholds import read_thresholds, write_thresholds

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

PLUCKED = "Musical instrument, plucked"


@pytest.mark.parametrize("name", ["t.json", "t.csv", "t"])
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    thresholds = {PLUCKED: 0.25, 'a "quoted" näme': 1.0, "Dog": 0.123457, "two\nlines": 0.5, "a\u2028b": 0.75}
    write_thresholds(tmp_path / name, thresholds)
    assert read_thresholds(tmp_path / name) == thresholds


def test_the_files_are_what_other_programs_expect(tmp_path: Path) -> None:
    write_thresholds(tmp_path / "t.json", {"Möwe": 0.5, PLUCKED: 1 / 3})
    write_thresholds(tmp_path / "t.csv", {"Möwe": 0.5, PLUCKED: 1 / 3})
    assert (tmp_path / "t.json").read_text("utf-8") == f'{{\n  "Möwe": 0.5,\n  "{PLUCKED}": 0.333333\n}}\n'
    assert (tmp_path / "t.csv").read_text("utf-8") == f'label,threshold\nMöwe,0.5\n"{PLUCKED}",0.333333\n'


def test_a_spreadsheet_s_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfindex,threshold,label\r\n0, 0.5,Dog\r\n1,1,Siren\r\n")
    assert read_thresholds(tmp_path / "t.csv") == {"Dog": 0.5, "Siren": 1.0}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no columns label and threshold"),
        (b"Dog,0.5\n", "has no columns label and threshold"),
        (b"label,threshold\n", "names no label"),
        (b"{}", "names no label"),
        (b'{"Dog": 1.5}', "the threshold of 'Dog' must be 0 to 1, not 1.5"),
        (b'{"Dog": NaN}', "must be 0 to 1, not nan"),
        (b'{"Dog": true}', "must be 0 to 1, not True"),
        (b'{"Dog": "0.5"}', "must be 0 to 1, not '0.5'"),
        (b'{"Dog": null}', "must be 0 to 1, not None"),
        (b'{"Dog": [0.5]}', "must be 0 to 1, not"),
        (b'{"Dog": {"Dog": 0.5}}', "must be 0 to 1, not"),
        (b'{"Dog": 0.5, "Dog": 0.6}', "label 'Dog' stands twice"),
        (b"label,threshold\nDog,0.5\nDog,0.5\n", "label 'Dog' stands twice"),
        (b"label,threshold\nDog,much\n", "must be 0 to 1, not 'much'"),
        (b"label,threshold\nDog,0.5\nSpeech,0,9\n", "line 3 has more cells than the first. Is it a decimal comma?"),
        (b'label,threshold\nSpeech,"0,9"\n', "must be 0 to 1, not '0,9'"),
        (b"label,threshold\nDog\n", "must be 0 to 1, not"),
        (b'label,threshold\n"Dog"s,0.5\n', "expected after"),
        (b'{"Dog": 0.5', "delimiter"),
        (b"[" * 100_000, "has no columns"),
        (b'{"a":' * 100_000, "recursion"),
        (b"\xff\xfe\x00", "can't decode"),
    ],
)
def test_an_unusable_file_is_a_usage_error_of_one_sentence(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(UsageError) as raised:
        read_thresholds(tmp_path / "t")
    assert complaint in str(raised.value)
    assert str(raised.value).startswith(f"thresholds: {tmp_path / 't'}: ")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere/t.json: cannot be written"):
        write_thresholds(tmp_path / "nowhere/t.json", {"Dog": 0.5})


def test_named_labels_get_their_value_and_the_others_keep_theirs() -> None:
    labels = LabelSet(("Dog", "Cat", "Rain"))
    assert labels.fill({"cat": 0.9}, (0.1, 0.2, 0.3)) == (0.1, 0.9, 0.3)
    with pytest.raises(UsageError, match=r"label 'CATT': the model does not know it\. Did you mean 'Cat'"):
        labels.fill({"CATT": 0.9}, (0.1, 0.2, 0.3))
    with pytest.raises(UsageError, match=rf"Did you mean '{PLUCKED}'"):
        LabelSet(("Dog", PLUCKED)).fill({"Plucked": 0.9}, (0.1, 0.2))
    with pytest.raises(UsageError, match="the model does not know it"):
        labels.fill({"*": 0.9}, (0.1, 0.2, 0.3))


def test_an_option_out_of_range_is_refused_in_python_too() -> None:
    with pytest.raises(UsageError, match="the threshold of 'Dog' must be 0 to 1, not 2"):
        TagOptions(thresholds={"Dog": 2})


@pytest.mark.usefixtures("in_folder_with_tiny_model")
def test_a_label_s_own_threshold_counts_before_threshold_and_the_model_s(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    write_wav("a.wav", tone())
    (tmp_path / "t.json").write_text(json.dumps({"Dog": 1.0}))

    def labels_shown(*more: str) -> list[str]:
        return sorted(tag["label"] for tag in json.loads(run_audiotag("predict", "a.wav", *more).stdout)["tags"])

    assert labels_shown() == ["Dog", PLUCKED, "Siren"]
    assert labels_shown("--thresholds", "t.json") == [PLUCKED, "Siren"]
    (tmp_path / "t.json").write_text(json.dumps({"dog": 0.0}))
    assert labels_shown("--thresholds", "t.json", "-t", "1") == ["Dog"]


@pytest.mark.usefixtures("in_folder_with_tiny_model")
@pytest.mark.parametrize("command", ["predict", "batch"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "thresholds: t.json: cannot be read: No such file or directory. Check the path"),
        ('{"Dogg": 0.5}', "label 'Dogg': the model does not know it. Did you mean 'Dog'?"),
        ('{"Dog": 7}', "thresholds: t.json: the threshold of 'Dog' must be 0 to 1, not 7. "
                       'Write {"label": threshold} or CSV with the columns label and threshold'),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_usage_line(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path, command: str, content: str | None, complaint: str
) -> None:
    write_wav("a.wav", tone())
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    ran = run_audiotag(command, "a.wav", "--thresholds", "t.json")
    assert (ran.code, ran.stdout, ran.stderr) == (2, "", f"audiotag: error: {complaint}\n")


@pytest.mark.usefixtures("in_folder_with_tiny_model")
def test_a_resumed_run_must_have_the_same_thresholds_and_its_results_say_them(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    write_wav("in/a.wav", chirp())
    (tmp_path / "t.json").write_text('{"Siren": 1.0}')
    (tmp_path / "t.csv").write_text("label,threshold\nSiren,1\n")
    assert run_audiotag("batch", "in", "-o", "tags.csv", "--thresholds", "t.json", "-q").code == 0
    parameters = json.loads((tmp_path / "tags.csv.run.json").read_text())["audiotag"]["parameters"]
    assert parameters["thresholds"] == {"Siren": 1.0}
    with (tmp_path / "tags.csv").open() as lines:
        assert {row["label"] for row in csv.DictReader(lines)} == {"Dog", PLUCKED}

    write_wav("in/b.wav", chirp())
    refused = run_audiotag("batch", "in", "-o", "tags.csv", "--resume", "-q")
    assert refused.code == 1
    assert 'thresholds was {"Siren": 1.0}, is not set' in refused.stderr
    assert run_audiotag("batch", "in", "-o", "tags.csv", "--resume", "--thresholds", "t.csv", "-q").code == 0
    assert (tmp_path / "tags.csv").read_text().count("in/b.wav") == 2


def test_a_label_as_it_is_written_goes_before_one_in_another_case() -> None:
    labels = LabelSet(("Dog", "dog"))
    assert [labels.find(name) for name in ("Dog", "dog", "DOG")] == [(0,), (1,), (1,)]
    assert labels.fill({"Dog": 0.2, "dog": 0.7}, (0.5, 0.5)) == (0.2, 0.7)
