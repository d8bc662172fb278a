"""`--shard I/N` and `audiotag merge`: many machines' outputs are one run's, or a line that says why not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran, noise, stereo, tone

from audiotag.cli.status import counted
from audiotag.inputs import Input, Shard, in_shard, parse_shard
from audiotag.merge import merge

RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

COUNT = 3
# The last but one sorts behind the folder `z`, although a tab is before a slash.
ODD_NAMES = (b"a.wav", b"new\nline.wav", b'quo"te.wav', b"com,ma.wav", b"not utf-8 \xff.wav", b"z\tb.wav", b"z/a.wav")


pytestmark = pytest.mark.usefixtures("in_folder_with_tiny_model")


@pytest.fixture
def sounds(write_wav: WriteWav, tmp_path: Path) -> Path:
    """Twelve inputs with odd names and two that fail, so that every shard of `COUNT` has some."""
    folder = tmp_path / "in"
    first = write_wav("in/a.wav", noise(seconds=0.3)).read_bytes()
    for name in ODD_NAMES[1:]:
        (folder / os.fsdecode(name)).parent.mkdir(exist_ok=True)
        (folder / os.fsdecode(name)).write_bytes(first)
    write_wav("in/both.wav", stereo(tone(seconds=1.2), noise(seconds=1.2)))
    for number in range(2):
        write_wav(f"in/{number}.wav", tone(200.0 + 500.0 * number))
        (folder / f"broken {number}.mp3").write_text("no sound\n" * 30)
    return folder


def tag_shards(run: RunAudiotag, suffix: str, *options: str, count: int = COUNT) -> list[str]:
    names = [f"out.{number}.{suffix}" for number in range(1, count + 1)]
    for number, name in enumerate(names, start=1):
        assert run("batch", "in", "--out", name, "--shard", f"{number}/{count}", "-q", *options).code in (0, 3)
    return names


# --- the split ---


def test_every_path_is_in_exactly_one_shard_and_the_shards_are_of_like_size() -> None:
    paths = [f"recordings/{number:05d}.wav" for number in range(20_000)]
    for count in (1, 2, 7, 16):
        sizes = [sum(path in Shard(number, count) for path in paths) for number in range(1, count + 1)]
        assert sum(sizes) == len(paths)
        assert max(sizes) - min(sizes) < 6 * (len(paths) / count) ** 0.5  # six deviations of a fair die


def test_a_path_s_shard_never_changes_between_releases_and_machines() -> None:
    # `printf a.wav | sha256sum` begins with bc30c538c410e224, which is 4 modulo 8: the fifth shard.
    paths = ["a.wav", "in/sub/dog.mp3", "\N{DOG FACE}.wav", "not utf-8 \udcff.wav"]
    assert [next(number for number in range(1, 9) if path in Shard(number, 8)) for path in paths] == [5, 8, 1, 5]


def test_a_path_s_shard_depends_on_nothing_but_the_path() -> None:
    inputs = [Input(f"{number}.wav", None) for number in range(50)]
    alone = {given.path for given in inputs if list(in_shard([given], Shard(2, 3)))}
    assert {given.path for given in in_shard(reversed(inputs), Shard(2, 3))} == alone
    assert list(in_shard(inputs, None)) == inputs


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "3", "a/b", "1/2/3", "-1/3", "1.0/3", "", "1/-3", "\u0661/3"])
def test_what_is_no_shard_is_a_usage_error(run_audiotag: RunAudiotag, sounds: Path, text: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        parse_shard(text)
    ran = run_audiotag("batch", "in", f"--shard={text}")
    assert ran.code == 2
    assert ran.stderr.startswith("audiotag: error: Invalid value for '--shard': ")
    assert ran.stderr.count("\n") == 1


# --- a shard's run ---


def test_a_shard_tells_which_it_is_everywhere(run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path) -> None:
    run_audiotag("batch", "in", "-o", "a.ndjson", "--header", "--shard", "2/3")
    run_audiotag("batch", "in", "-o", "a.json", "--shard", "2/3")
    assert json.loads((tmp_path / "a.ndjson").read_text().splitlines()[0])["audiotag"]["shard"] == "2/3"
    assert json.loads((tmp_path / "a.json").read_text())["audiotag"]["shard"] == "2/3"
    assert json.loads((tmp_path / "a.json.run.json").read_text())["audiotag"]["shard"] == "2/3"


def test_a_shard_is_resumed_as_itself_only(run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "broken 0.mp3").unlink()
    number = next(number for number in range(1, 4) if "in/broken 1.mp3" in Shard(number, 3))
    shard = f"{number}/3"
    assert run_audiotag("batch", "in", "--out", "a.csv", "--shard", shard, "--strict").code == 1
    ran = run_audiotag("batch", "in", "--out", "a.csv", "--resume")
    assert (ran.code, f'shard was "{shard}", is not set' in ran.stderr) == (1, True)
    assert run_audiotag("batch", "in", "--out", "a.csv", "--resume", "--shard", f"{number}/4").code == 1
    assert run_audiotag("batch", "in", "--out", "a.csv", "--resume", "--shard", shard).code == 3
    assert run_audiotag("batch", "in", "--out", "whole.csv", "--shard", shard).code == 3
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_empty_shard_is_a_success_and_no_input_at_all_is_none(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    write_wav("in/a.wav", tone(seconds=0.2))
    for arguments in ([], ["--dry-run"]):
        codes = [
            run_audiotag("batch", "in", "-q", "--shard", f"{number}/9", *arguments).code for number in range(1, 10)
        ]
        assert codes == [0] * 9
        assert run_audiotag("batch", "in", "--include", "*.xyz", "--shard", "1/9", *arguments).code == 4


def test_the_dry_run_shows_the_shard_s_plan(run_audiotag: RunAudiotag, sounds: Path) -> None:
    shown: list[str] = []
    for number in range(1, COUNT + 1):
        *lines, told, total = run_audiotag("batch", "in", "-n", "--shard", f"{number}/{COUNT}").stdout.splitlines()
        assert told == f"shard {number}/{COUNT}; inputs in the others: {12 - len(lines)}"
        assert total.startswith(f"{counted(len(lines), 'input')}, ")
        shown += lines
    whole = run_audiotag("batch", "in", "-n").stdout.splitlines()[:-1]
    assert sorted(shown) == sorted(whole)
    assert len(whole) == 12


# --- the join ---


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("csv", []), ("tsv", []), ("ndjson", []), ("json", []), ("ndjson", ["--header"]),
        ("csv", ["--channels", "each", "--windows", "-t", "0"]), ("json", ["--channels", "each", "-t", "0.5"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)  # fmt: skip
def test_the_shards_of_a_folder_are_the_file_that_one_run_writes(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, suffix: str, options: list[str]
) -> None:
    names = tag_shards(run_audiotag, suffix, *options)
    assert run_audiotag("batch", "in", "--out", f"whole.{suffix}", "-q", *options).code == 3
    ran = run_audiotag("merge", *reversed(names), "--out", f"merged.{suffix}")
    assert (ran.code, ran.stdout, ran.stderr.count("\n")) == (0, "", 1)
    assert (tmp_path / f"merged.{suffix}").read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    merged, whole = (json.loads((tmp_path / f"{name}.{suffix}.run.json").read_text()) for name in ("merged", "whole"))
    for told in (merged, whole):
        assert told.pop("started") <= told.pop("finished")
    assert merged == whole
    assert list(merged) == list(whole)


def test_a_merged_file_is_resumed_like_any_other(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, write_wav: WriteWav
) -> None:
    for path in sounds.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    run_audiotag("merge", *tag_shards(run_audiotag, "csv"), "--out", "merged.csv")
    write_wav("in/m.wav", tone())
    ran = run_audiotag("batch", "in", "--out", "merged.csv", "--resume")
    assert ran.stderr.count("warning") == ran.stderr.count("broken") == 2, "what failed is tried again"
    run_audiotag("batch", "in", "--out", "whole.csv")
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_inputs_in_another_order_come_once_each_whatever_the_order_of_the_shards(
    run_audiotag: RunAudiotag, write_wav: WriteWav, tmp_path: Path
) -> None:
    paths = [str(write_wav(f"{name}.wav", tone(seconds=0.1))) for name in "hbdacgef"]
    for number in (1, 2):
        run_audiotag("batch", *paths, "--out", f"{number}.ndjson", "--shard", f"{number}/2", "-q")
    run_audiotag("merge", "1.ndjson", "2.ndjson", "--out", "merged.ndjson")
    run_audiotag("merge", "2.ndjson", "1.ndjson", "--out", "again.ndjson")
    lines = (tmp_path / "merged.ndjson").read_text().splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == sorted(paths)
    assert (tmp_path / "merged.ndjson").read_bytes() == (tmp_path / "again.ndjson").read_bytes()


# --- what is refused ---


def refused(run: RunAudiotag, *arguments: str, code: int = 1) -> str:
    ran = run("merge", *arguments)
    assert (ran.code, ran.stdout) == (code, "")
    assert ran.stderr.startswith("audiotag: error: ")
    assert ran.stderr.count("\n") == 1
    assert not list(Path().glob("merged*")), "nothing is left behind"
    return ran.stderr.removeprefix("audiotag: error: ").rstrip("\n")


@pytest.fixture
def shards(run_audiotag: RunAudiotag, sounds: Path) -> list[str]:
    return tag_shards(run_audiotag, "csv")


def test_a_missing_or_doubled_shard_is_named(run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path) -> None:
    first, second, third = shards
    told = refused(run_audiotag, first, third, "-o", "merged.csv")
    assert told == "out.1.csv: shard 2/3 of its run is missing. Name every shard's output"
    assert "shard 2/3, shard 3/3 of its run are missing" in refused(run_audiotag, first, "-o", "merged.csv")
    told = refused(run_audiotag, *shards, second, "-o", "merged.csv")
    assert told == "out.2.csv: is shard 2/3, and so is out.2.csv. Name each shard once"
    for suffix in ("csv", "csv.run.json"):
        shutil.copy(tmp_path / f"out.1.{suffix}", tmp_path / f"copy.{suffix}")
    assert "and so is " in refused(run_audiotag, *shards, "copy.csv", "-o", "merged.csv")


def test_a_shard_of_another_split_or_of_none_is_refused(run_audiotag: RunAudiotag, shards: list[str]) -> None:
    run_audiotag("batch", "in", "-q", "--out", "other.csv", "--shard", "3/4")
    told = refused(run_audiotag, *shards[:2], "other.csv", "-o", "merged.csv")
    assert told == "out.2.csv: is shard 2/3, other.csv is 3/4. Name the shards of one split"
    run_audiotag("batch", "in", "-q", "--out", "whole.csv")
    assert "of a whole run, not of a shard" in refused(run_audiotag, *shards, "whole.csv", "-o", "merged.csv")


def test_an_unfinished_shard_is_refused(run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path) -> None:
    number = next(number for number in range(1, 4) if "in/broken 1.mp3" in Shard(number, 3))
    run_audiotag("batch", "in", "-o", shards[number - 1], "--shard", f"{number}/3", "--strict", "--overwrite")
    told = refused(run_audiotag, *shards, "-o", "merged.csv")
    assert told == f"{shards[number - 1]}: is not finished. Go on with `audiotag batch --resume`"


def test_other_options_models_and_formats_are_refused_by_name(
    run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path, tiny_model_folder: Path
) -> None:
    def told_with(name: str, *options: str) -> str:
        run_audiotag("batch", "in", "-q", "-o", name, "--shard", "3/3", "--overwrite", *options)
        return refused(run_audiotag, *shards[:2], name, "-o", "merged.csv")

    assert "top_k is 5 in out.2.csv, 1 in third.csv" in told_with("third.csv", "-k", "1")
    assert 'precision is "fp32" in out.2.csv, "int8" in third.csv' in told_with("third.csv", "--precision", "int8")
    assert 'format is "csv" in out.2.csv, "tsv" in third.tsv' in told_with("third.tsv")
    other = tmp_path / "other model"
    shutil.copytree(tiny_model_folder, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert "sha256 is " in told_with("third.csv", "--model", str(other))


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "json"])
def test_a_shard_that_was_cut_or_changed_is_refused(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path, suffix: str
) -> None:
    names = tag_shards(run_audiotag, suffix)
    path = tmp_path / names[1]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    cut = [whole[:-20], b"".join(lines[:-2]) + lines[-1], b"".join([*lines[:2], *lines[3:]]), b"", b"{}\n" * 3]
    provenance = path.with_name(path.name + ".run.json")
    told_before = provenance.read_text()
    for data in cut:
        path.write_bytes(data)
        told = refused(run_audiotag, *names, "-o", f"merged.{suffix}")
        assert told.startswith(f"{names[1]}: has {len(data):,} bytes, was finished with {len(whole):,}")
    for data in (*cut[:1], *cut[3:]):
        path.write_bytes(data)
        provenance.write_text(json.dumps({**json.loads(told_before), "bytes": len(data)}))
        told = refused(run_audiotag, *names, "-o", f"merged.{suffix}")
        assert told.startswith(f"{names[1]}: ")
        assert told.endswith(". Tag the shard again")
    other = (tmp_path / names[0]).read_bytes()
    path.write_bytes(other)
    provenance.write_text(json.dumps({**json.loads(told_before), "bytes": len(other)}))
    told = refused(run_audiotag, *names, "-o", f"merged.{suffix}")
    assert "which is not of shard 2/3" in told


def test_provenance_that_is_gone_or_damaged_is_told(
    run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path
) -> None:
    provenance = tmp_path / "out.2.csv.run.json"
    damaged = (
        "", "[]", "{}", '{"audiotag": []}', '{"audiotag": {"shard": "9/2"}}',
        '{"audiotag": {"shard": "2/3"}, "format": "csv"}',
    )  # fmt: skip
    for text in damaged:
        provenance.write_text(text)
        assert refused(run_audiotag, *shards, "-o", "merged.csv").startswith(f"{provenance.name}: is damaged")
    provenance.unlink()
    told = refused(run_audiotag, *shards, "-o", "merged.csv")
    assert told.startswith("out.2.csv.run.json: No such file")
    assert refused(run_audiotag, "nowhere.csv", "-o", "merged.csv").startswith("nowhere.csv.run.json: No such file")


def test_usage_errors_of_merge_end_with_2(run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path) -> None:
    refused(run_audiotag, *shards, code=2)
    refused(run_audiotag, "-o", "merged.csv", code=2)
    assert "stands for json, but the shards are csv" in refused(run_audiotag, *shards, "-o", "merged.json", code=2)
    assert "is one of the shards" in refused(run_audiotag, *shards, "-o", shards[0], "--overwrite", code=2)
    run_audiotag("batch", "in", "-q", "-f", "raven", "-o", "a.txt", "--shard", "1/1")
    assert "format raven: shards of it cannot be joined" in refused(run_audiotag, "a.txt", "-o", "merged.x", code=2)


def test_an_output_that_exists_is_kept_unless_told_otherwise(
    run_audiotag: RunAudiotag, shards: list[str], tmp_path: Path
) -> None:
    (tmp_path / "there.csv").write_text("precious")
    ran = run_audiotag("merge", *shards, "-o", "there.csv")
    assert (ran.code, (tmp_path / "there.csv").read_text()) == (1, "precious")
    (tmp_path / shards[1]).write_text("damaged")
    assert run_audiotag("merge", *shards, "-o", "there.csv", "--overwrite").code == 1
    assert (tmp_path / "there.csv").read_text() == "precious", "replaced only by a whole one"
    run_audiotag("batch", "in", "-q", "-o", shards[1], "--shard", "2/3", "--overwrite")
    assert run_audiotag("merge", *shards, "-o", "there.csv", "--overwrite", "-q").stderr == ""
    assert (tmp_path / "there.csv").read_bytes().startswith(b"path,status,")


def test_an_unfinished_run_that_is_replaced_leaves_nothing(
    run_audiotag: RunAudiotag, sounds: Path, tmp_path: Path
) -> None:
    assert run_audiotag("batch", "in", "-o", "merged.json", "--strict", "-q").code == 1
    assert run_audiotag("merge", *tag_shards(run_audiotag, "json"), "-o", "merged.json", "--overwrite").code == 0
    assert {path.name for path in tmp_path.glob("merged*")} == {"merged.json", "merged.json.run.json"}


def made_shards(folder: Path, count: int, n_inputs: int) -> list[Path]:
    """Outputs as `count` runs with the NDJSON format leave them, without the runs."""
    paths = [folder / f"{number}.ndjson" for number in range(1, count + 1)]
    line = '{{"path": "{}", "status": "ok", "duration": 1.0, "tags": []}}\n'
    names = [f"{number:07d}.wav" for number in range(n_inputs)]
    for number, path in enumerate(paths, start=1):
        mine = [name for name in names if name in Shard(number, count)]
        path.write_text("".join(line.format(name) for name in mine))
        told = {
            "audiotag": {"parameters": {}, "shard": f"{number}/{count}"}, "format": "ndjson", "with_header": False,
            "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:00+00:00",
            "inputs": {"ok": len(mine), "empty": 0, "failed": 0}, "seconds_of_audio": 1.0,
            "bytes": path.stat().st_size,
        }  # fmt: skip
        path.with_name(path.name + ".run.json").write_text(json.dumps(told))
    return paths


def test_more_shards_than_a_process_may_open_are_joined(tmp_path: Path) -> None:
    paths = made_shards(tmp_path, 200, 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    try:
        merge(paths, tmp_path / "merged.ndjson")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len((tmp_path / "merged.ndjson").read_text().splitlines()) == 1000


def test_memory_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from audiotag.merge import merge;"
        "merge([Path(each) for each in sys.argv[2:]], Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak(n_inputs: int) -> int:
        folder = tmp_path / str(n_inputs)
        folder.mkdir()
        paths = made_shards(folder, 2, n_inputs)
        command = [sys.executable, "-c", code, str(folder / "merged.ndjson"), *map(str, paths)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)

    assert peak(40_000) - peak(1_000) < 2048, "KiB; the large one's file has 2.6 MB"
