"""Labelled clips: what is read from folders and manifests, and the cache of log-mels."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_CONFIG, TINY_RATE, chirp, noise, tone

from audiotag.audio import Waveform, read_audio
from audiotag.errors import DataError, OutputError
from audiotag.frontend import LogMel
from audiotag.training.credits import write_credits
from audiotag.training.dataset import (
    Credit,
    LabelledClip,
    choose_labels,
    label_matrix,
    read_dataset,
    unknown_labels,
)  # fmt: skip
from audiotag.training.log_mels import log_mels_of

Write = Callable[..., Path]


def test_a_folder_gives_each_sub_folders_name_as_the_label(write_wav: Write, tmp_path: Path) -> None:
    write_wav("data/dog/one.wav", tone())
    write_wav("data/dog/deep/two.wav", tone())
    write_wav("data/cat/one.wav", tone())
    write_wav("data/.trash/three.wav", tone())
    (tmp_path / "data/dog/notes.txt").write_text("not audio")
    clips = read_dataset(tmp_path / "data")
    assert [(clip.path.name, clip.labels) for clip in clips] == [
        ("one.wav", ("cat",)), ("two.wav", ("dog",)), ("one.wav", ("dog",)),
    ]  # fmt: skip
    assert len({clip.group for clip in clips}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder's name is Unicode")
def test_a_sub_folder_whose_name_is_no_text_is_no_label(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(DataError, match=r"a label must be UTF-8 text\. Rename the folder"):
        read_dataset(tmp_path)


def test_folds_of_a_folder_do_not_change_when_clips_are_added(write_wav: Write, tmp_path: Path) -> None:
    for index in range(12):
        write_wav(f"data/dog/{index}.wav", tone())
    before = {clip.path: clip.fold for clip in read_dataset(tmp_path / "data")}
    write_wav("data/ant/new.wav", tone())
    after = {clip.path: clip.fold for clip in read_dataset(tmp_path / "data")}
    assert {path: after[path] for path in before} == before
    assert len(set(before.values())) > 1


def test_clips_without_a_fold_get_one_of_five_by_their_group(tmp_path: Path) -> None:
    rows = [f"{number}.wav,Dog,{number // 2}, " for number in range(100)]
    (tmp_path / "m.csv").write_text("\n".join(["path,labels,group,fold", *rows]))
    folds = [clip.fold for clip in read_dataset(tmp_path / "m.csv")]
    assert set(folds) == set("12345")
    assert folds[::2] == folds[1::2]


def test_a_manifest_may_have_a_line_for_each_label_of_a_clip(tmp_path: Path) -> None:
    """Not a clip for each: one would teach that the label of the other is not heard."""
    (tmp_path / "m.csv").write_text("path,label,group\na.wav,Dog,g1\nb.wav,Rain,g2\na.wav,Rain;Dog,g1\n")
    clips = read_dataset(tmp_path / "m.csv")
    assert [(clip.path.name, clip.labels, clip.group) for clip in clips] == [
        ("a.wav", ("Dog", "Rain"), "g1"), ("b.wav", ("Rain",), "g2"),
    ]  # fmt: skip


def test_a_manifest_prefers_labels_with_parents_and_keeps_folds_and_credits(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,source,license,attribution,labels,fold,group,labels_all,origin\n"
        'a.wav,zoo,CC-BY-4.0,"Ann, B.","Bark",3,g1,"Bark;Dog;Animal",example.org/zoo@1:a.wav\n'
        "b.wav,zoo,CC0-1.0,,Rain,4,g2,Rain,\n"
        "c.wav,zoo\n"  # a line may end early
    )
    first, second, third = read_dataset(manifest)
    assert first.path == tmp_path / "a.wav"
    assert first.labels == ("Bark", "Dog", "Animal")
    assert (first.fold, first.group, second.fold) == ("3", "g1", "4")
    assert first.credit == Credit("zoo", "CC-BY-4.0", "Ann, B.", "example.org/zoo")
    assert third.labels == ()
    write_credits(tmp_path, [first, second, third])
    assert (tmp_path / "CREDITS.csv").read_text() == (
        "source,license,attribution,origin,clips\n"
        "zoo,,,,1\nzoo,CC-BY-4.0,\"Ann, B.\",example.org/zoo,1\nzoo,CC0-1.0,,,1\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\na.wav,Dog\n", "needs the columns path and labels, has 'file, label'$"),
        ("path;labels\na.wav;Dog\n", "has 'path;labels'. Put commas between the cells$"),
        ("path\tlabels\na.wav\tDog\n", r"has 'path\\tlabels'. Put commas between the cells$"),
        ("path,labels\n", "holds no labelled clip"),
        ("", "needs the columns path and labels, has 'none'$"),
        ("path,labels,fold\na.wav,Dog,1\nb.wav,Domestic animals, pets,1\n",
         r"m\.csv: line 3 has more cells than the first. Quote labels that hold commas$"),
        ("path,label,fold\na.wav,Dog,1\nb.wav,Dog,1\na.wav,Rain,2\n",
         r"m\.csv: line 4 names .*a\.wav again, but not its group, fold and credit. Make them the same$"),
        ("labels,path\nDog\n", r"m\.csv: line 2 has no path"),
        ("path,labels\n,Dog\n", r"m\.csv: line 2 has no path"),
        ('path,labels\na.wav,"Dog\nb.wav,Cat\n', r"m\.csv: line 2 is not CSV: unexpected end of data"),
        ('path,labels\na.wav,"Dog' + 200_000 * "o", r"m\.csv: line 2 is not CSV: field larger than field limit"),
    ],
)  # fmt: skip
def test_an_unusable_manifest_is_one_clear_error(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_dataset(tmp_path / "m.csv")


def test_a_clip_that_is_named_in_two_ways_is_one_clip(tmp_path: Path) -> None:
    """Or one of the two is held out, and the other learnt from."""
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,label,group,fold\na.wav,Dog,g,1\n{tmp_path / 'a.wav'},Rain,g,1\nb/../a.wav,Cat,g,1\n")
    assert [(clip.path, clip.labels) for clip in read_dataset(manifest)] == [
        (tmp_path / "a.wav", ("Dog", "Rain", "Cat"))
    ]
    manifest.write_text(f"path,label\na.wav,Dog\n{tmp_path / 'a.wav'},Dog\n")
    with pytest.raises(DataError, match=r"m\.csv: line 3 names .*a\.wav again, but not its group, fold and credit"):
        read_dataset(manifest)


def test_spaces_around_a_fold_or_a_group_make_no_other_one(tmp_path: Path) -> None:
    lines = ["path,label,fold,group", "a.wav,Dog,1,yard", "b.wav,Dog, 1 ,yard ", "c.wav,Dog,1, "]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    clips = read_dataset(tmp_path / "m.csv")
    assert [(clip.fold, clip.group) for clip in clips] == [("1", "yard"), ("1", "yard"), ("1", "c.wav")]


def test_a_manifest_is_read_whatever_the_case_and_the_spaces_of_its_columns(tmp_path: Path) -> None:
    text = 'Path, Labels , FOLD\na.wav, "Domestic animals, pets;Dog", 1\n'
    (tmp_path / "m.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets do
    (clip,) = read_dataset(tmp_path / "m.csv")
    assert clip.path == tmp_path / "a.wav"
    assert (clip.labels, clip.fold) == (("Domestic animals, pets", "Dog"), "1")


def test_a_manifest_that_may_not_be_read_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "m.csv").touch()
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(DataError, match=r"m\.csv: cannot be read: Permission denied"):
        read_dataset(tmp_path / "m.csv")


def test_a_manifest_that_is_not_utf_8_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,labels\nä.wav,Hund\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"m\.csv: is not UTF-8 text"):
        read_dataset(tmp_path / "m.csv")


def test_missing_data_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: does not exist"):
        read_dataset(tmp_path / "nowhere")


def test_labels_need_clips_and_independent_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{i}.wav,Many;{'Rare' if i < 2 else 'Same'},{'g' if i >= 2 else i}" for i in range(6)]
    (tmp_path / "m.csv").write_text("path,labels,group\n" + "\n".join(rows))
    clips = read_dataset(tmp_path / "m.csv")
    caplog.set_level(logging.WARNING, "audiotag")
    assert choose_labels(clips, min_clips=1, min_groups=1) == ("Many", "Rare", "Same")
    assert not caplog.records
    assert choose_labels(clips, min_clips=3, min_groups=1) == ("Many", "Same")
    assert caplog.messages == ["labels without 3 clips of 1 groups are not in the model: 'Rare'"]
    assert choose_labels(clips, min_clips=3, min_groups=2) == ("Many",)
    assert caplog.messages[1].endswith(": 'Rare', 'Same'")
    assert label_matrix(clips, ("Rare", "Many")).tolist() == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 1], [0, 1]]
    with pytest.raises(DataError, match="no label has 100 clips"):
        choose_labels(clips, min_clips=100, min_groups=1)


def test_labels_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,labels\na.wav,dog\nb.wav,Cat\nc.wav,Dog\n")
    with pytest.raises(DataError, match=r"the labels 'Dog' and 'dog' differ only by case\. Write them alike"):
        choose_labels(read_dataset(tmp_path / "m.csv"), min_clips=1, min_groups=1)


def test_labels_that_look_alike_but_are_written_with_other_characters_are_refused(tmp_path: Path) -> None:
    composed, decomposed = "Caf\u00e9", "Cafe\u0301"  # as most systems write it, and as names of files on a Mac
    (tmp_path / "m.csv").write_text(f"path,labels\na.wav,{composed}\nb.wav,{decomposed}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"differ only by how their accents are stored \(NFC or NFD\)\. Write them"):
        choose_labels(read_dataset(tmp_path / "m.csv"), min_clips=1, min_groups=1)


def test_log_mels_are_computed_once_and_again_when_a_clip_changes(
    write_wav: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav("data/x/a.wav", chirp())
    write_wav("data/x/b.wav", tone(seconds=0.3))
    clips = read_dataset(tmp_path / "data")
    frontend = TINY_CONFIG.frontend
    fresh = log_mels_of(clips, frontend, cache=tmp_path / "cache")
    expected = LogMel(frontend)(chirp())
    assert np.abs(fresh[0].astype(np.float32) - expected).max() < 0.01  # float16 in -14 to 7
    assert [len(each) for each in fresh] == [1 + 8000 // 80, 1 + 2400 // 80]

    monkeypatch.setattr("audiotag.training.log_mels.read_audio", lambda *a, **k: pytest.fail("read again"))
    again = log_mels_of(clips, frontend, cache=tmp_path / "cache")
    assert all(np.array_equal(a, b) for a, b in zip(fresh, again, strict=True))
    monkeypatch.undo()

    write_wav("data/x/b.wav", noise(seconds=0.5))
    os.utime(tmp_path / "data/x/b.wav", (1, 1))
    assert len(log_mels_of(clips, frontend, cache=tmp_path / "cache")[1]) == 1 + 4000 // 80


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system tells of no such limit")
def test_clips_are_read_on_the_cores_that_the_process_may_use(
    write_wav: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write_wav(f"data/x/{number}.wav", chirp())
    threads = set[int]()

    def noting(path: Path, **options: Any) -> Waveform:
        threads.add(threading.get_ident())
        return read_audio(path, **options)

    monkeypatch.setattr("audiotag.training.log_mels.read_audio", noting)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    log_mels_of(read_dataset(tmp_path / "data"), TINY_CONFIG.frontend, cache=tmp_path / "cache")
    assert len(threads) == 1


def test_of_a_clip_the_first_minute_is_learnt_from(write_wav: Write, tmp_path: Path) -> None:
    write_wav("data/x/a.wav", tone(seconds=61.0))
    (log_mel,) = log_mels_of(read_dataset(tmp_path / "data"), TINY_CONFIG.frontend, cache=tmp_path / "cache")
    assert len(log_mel) == TINY_CONFIG.frontend.n_frames(60 * TINY_RATE)


def test_a_cache_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written: File exists"):
        log_mels_of([], TINY_CONFIG.frontend, cache=tmp_path / "file")


def test_a_disk_that_is_full_is_told_of_and_leaves_no_half_of_a_cache(
    write_wav: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wav("data/x/a.wav", chirp())
    clips, cache = read_dataset(tmp_path / "data"), tmp_path / "cache"

    def save(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("audiotag.training.log_mels.np.save", save)
    with pytest.raises(OutputError, match="cache: cannot be written: No space left"):
        log_mels_of(clips, TINY_CONFIG.frontend, cache=cache)
    assert not [*cache.glob("*.npy"), *cache.glob("*.partial")]
    monkeypatch.undo()
    assert len(log_mels_of(clips, TINY_CONFIG.frontend, cache=cache)[0])


def test_trainings_may_fill_one_cache_at_the_same_time(write_wav: Write, tmp_path: Path) -> None:
    for number in range(8):
        write_wav(f"data/x/{number}.wav", chirp())
    clips, cache = read_dataset(tmp_path / "data"), tmp_path / "cache"

    def another_training(done: int, _: int) -> None:
        if done == 4:
            code = (
                "import sys, pathlib, conftest\n"
                "from audiotag.training.dataset import read_dataset\n"
                "from audiotag.training.log_mels import log_mels_of\n"
                "data, cache = map(pathlib.Path, sys.argv[1:])\n"
                "log_mels_of(read_dataset(data), conftest.TINY_CONFIG.frontend, cache=cache)"
            )
            place = os.pathsep.join([str(Path(__file__).parent), *sys.path])
            command = [sys.executable, "-c", code, str(tmp_path / "data"), str(cache)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": place})

    for log_mel in log_mels_of(clips, TINY_CONFIG.frontend, cache=cache, on_clip=another_training):
        assert np.abs(log_mel.astype(np.float32) - LogMel(TINY_CONFIG.frontend)(chirp())).max() < 0.01


def test_each_kind_of_damage_has_log_mels_of_its_own(write_wav: Write, tmp_path: Path) -> None:
    write_wav("data/x/a.wav", chirp())
    clips, frontend = read_dataset(tmp_path / "data"), TINY_CONFIG.frontend
    plain, slower = (log_mels_of(clips, frontend, cache=tmp_path / "cache", kind=kind)[0] for kind in (None, "slower"))
    assert len(slower) > len(plain)
    assert np.array_equal(log_mels_of(clips, frontend, cache=tmp_path / "cache", kind="slower")[0], slower)


def test_a_coarse_label_leaves_open_what_a_fine_one_rules_out() -> None:
    def clip(*labels: str) -> LabelledClip:
        return LabelledClip(path=Path("x.wav"), labels=labels, fold="1", group="g")

    clips = [clip("Bark", "Dog", "Animal"), clip("Cat", "Animal"), clip("Animal"), clip("Dog", "Animal"), clip("Rain")]
    unknown = unknown_labels(clips, ("Animal", "Bark", "Cat", "Dog", "Rain"))
    assert unknown.tolist() == [
        [False, False, False, False, False],  # a bark is no cat
        [False, False, False, False, False],
        [False, True, True, True, False],  # any animal
        [False, True, False, False, False],  # a dog, that may bark
        [False, False, False, False, False],
    ]


def test_synonyms_are_no_ancestors_of_each_other() -> None:
    clip = LabelledClip(path=Path("x.wav"), labels=("Thunder", "Thunderstorm"), fold="1", group="g")
    assert not unknown_labels([clip, clip], ("Thunder", "Thunderstorm")).any()


def test_a_clip_that_cannot_be_read_is_named_and_left_out_each_time(
    write_wav: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "audiotag")  # whatever a command before it has left
    write_wav("data/x/a.wav", tone())
    (tmp_path / "data/x/broken.wav").write_bytes(b"RIFF nothing")
    clips = read_dataset(tmp_path / "data")
    for _ in ("computed", "cached"):
        caplog.clear()
        found = log_mels_of(clips, TINY_CONFIG.frontend, cache=tmp_path / "cache")
        assert [len(each) for each in found] == [101, 0]
        assert caplog.text.count("broken.wav: not decodable") == 1


def test_a_clip_that_can_be_read_again_is_learnt_from_though_neither_its_size_nor_its_time_has_changed(
    write_wav: Write, tmp_path: Path
) -> None:
    path = write_wav("data/x/a.wav", tone())
    write_wav("data/x/b.wav", tone())
    content, clips = path.read_bytes(), read_dataset(tmp_path / "data")
    lengths = []
    for now in (bytes(len(content)), content):  # as of a drive that failed, or permissions that were missing
        path.write_bytes(now)
        os.utime(path, (0, 0))
        found = log_mels_of(clips, TINY_CONFIG.frontend, cache=tmp_path / "cache")
        lengths.append([len(each) for each in found])
    assert lengths == [[0, 101], [101, 101]]
