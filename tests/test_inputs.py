"""Which inputs the arguments of a run stand for, in which order, under which paths."""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from audiotag.audio import probe
from audiotag.errors import AudioError, UsageError
from audiotag.inputs import Input, Skipped, find_inputs, sources_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that every test stands in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"12345")


def paths(*arguments: str, **options: Any) -> list[str]:
    return [found.path for found in find_inputs(arguments, **options) if isinstance(found, Input)]


def skipped(*arguments: str, **options: Any) -> dict[str, str]:
    return {found.path: found.reason for found in find_inputs(arguments, **options) if isinstance(found, Skipped)}


# --- what is named ---


def test_files_named_outright_come_in_their_order_whatever_their_suffix() -> None:
    touch("b.wav", "a.txt", ".hidden")
    assert paths("b.wav", "a.txt", ".hidden", "missing.wav") == ["b.wav", "a.txt", ".hidden", "missing.wav"]


def test_an_input_carries_size_and_time_where_it_is_a_file() -> None:
    touch("a.wav")
    os.utime("a.wav", ns=(1, 1_234_567_890))
    assert list(find_inputs(["a.wav", "gone", "a\0b", "-"])) == [
        Input("a.wav", Path("a.wav"), 5, 1_234_567_890),
        Input("gone", Path("gone")),
        Input("a\0b", Path("a\0b")),
        Input("-", None),
    ]


def test_stdin_and_a_file_named_dash_are_two_inputs() -> None:
    touch("-", "-k.wav")
    assert [found for found in find_inputs(["-", "./-"]) if isinstance(found, Input) and found.source is None]
    assert paths("-", "./-", ".", include=["*"]) == ["-", "./-", "-k.wav"]


def test_paths_are_shown_as_given() -> None:
    touch("sub/a.wav", "x.wav")
    absolute = os.path.abspath("sub")
    assert paths("sub") == paths("sub/") == ["sub/a.wav"]
    assert paths("./sub") == ["./sub/a.wav"]
    assert paths(absolute) == [f"{absolute}/a.wav"]
    assert paths(".") == paths("./") == ["sub/a.wav", "x.wav"]
    os.chdir("sub")
    assert paths("..") == ["../sub/a.wav", "../x.wav"]


def test_a_path_comes_once_however_often_it_is_named() -> None:
    touch("sub/a.wav", "sub/b.wav")
    assert paths("sub/b.wav", "sub", "./sub/a.wav", "sub//a.wav", "sub") == ["sub/b.wav", "sub/a.wav"]


def test_what_a_folder_skips_can_be_named_outright() -> None:
    touch("notes.txt")
    assert paths(".", "notes.txt") == ["notes.txt"]


def test_only_the_files_among_inputs_are_asked_whether_an_output_is_one_of_them() -> None:
    touch("a.wav", "b.txt")
    assert list(sources_of(find_inputs([".", "-"]))) == [Path("a.wav")]


# --- folders ---


def test_folders_are_walked_in_the_byte_order_of_their_components() -> None:
    touch("b/z.wav", "b.wav", "b-1.wav", "B.wav", "a/y/x.wav", "a/z.wav", "ä.wav", "10.wav", "9.wav")
    expected = ["10.wav", "9.wav", "B.wav", "a/y/x.wav", "a/z.wav", "b/z.wav", "b-1.wav", "b.wav", "ä.wav"]
    assert paths(".") == sorted(expected, key=lambda path: [os.fsencode(part) for part in path.split("/")])
    assert paths(".") == expected


def test_known_suffixes_are_picked_in_any_case_and_the_rest_is_reported() -> None:
    touch("a.WAV", "b.Mp3", "c.webm", "d.txt", "e", "f.wav.part", "g.ts")
    assert paths(".") == ["a.WAV", "b.Mp3", "c.webm"]
    assert skipped(".") == {
        "d.txt": "not a suffix of audio or video: .txt",
        "e": "not a suffix of audio or video: none",
        "f.wav.part": "not a suffix of audio or video: .part",
        "g.ts": "not a suffix of audio or video: .ts",
    }


def test_hidden_files_and_folders_are_skipped_but_can_be_named() -> None:
    touch(".a.wav", ".git/b.wav", "c.wav")
    assert paths(".") == ["c.wav"]
    assert skipped(".") == {".a.wav": "hidden", ".git": "hidden"}
    assert paths(".git") == [".git/b.wav"]


def test_what_is_no_file_is_skipped_with_a_reason_and_never_opened() -> None:
    touch("real.wav")
    os.mkfifo("pipe.wav")
    Path("dangling.wav").symlink_to("nowhere")
    Path("self.wav").symlink_to("self.wav")
    Path("link.wav").symlink_to("real.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")
        assert skipped(".") == {
            "dangling.wav": "a link that leads nowhere",
            "pipe.wav": "a named pipe, not a file",
            "self.wav": "a link that leads nowhere",
            "socket.wav": "a socket, not a file",
        }
    assert paths(".") == ["link.wav", "real.wav"]
    assert paths("pipe.wav") == ["pipe.wav"]


def test_link_loops_end_and_no_folder_is_walked_twice(tmp_path: Path) -> None:
    touch("a/x.wav", "b/y.wav", "../outside/deep/z.wav")
    Path("a/up").symlink_to("..")
    Path("a/other").symlink_to("../b")
    Path("c").symlink_to("../outside")
    Path("d").symlink_to(tmp_path / "outside" / "deep")
    (tmp_path / "outside" / "back").symlink_to(tmp_path / "here" / "a")
    (tmp_path / "outside" / "around").symlink_to(tmp_path)
    assert paths(".") == ["a/x.wav", "b/y.wav", "c/deep/z.wav"]
    reason = "a link to a folder that is walked anyway"
    assert skipped(".") == {
        **dict.fromkeys(["a/other", "a/up", "c/back", "d"], reason),
        "c/around": "a link to a folder above",
    }


def test_a_link_above_what_another_link_has_led_to_is_followed() -> None:
    touch("../disk/2023/x.wav", "../disk/2024/best/y.wav", "../disk/2024/z.wav", "a.wav")
    Path("best").symlink_to("../disk/2024/best")
    Path("disk").symlink_to("../disk")
    Path("../disk/2024/loop").symlink_to("..")
    assert paths(".") == ["a.wav", "best/y.wav", "disk/2023/x.wav", "disk/2024/z.wav"]
    assert skipped(".") == {
        "disk/2024/best": "walked already, through a link",
        "disk/2024/loop": "a link to a folder that is walked anyway",
    }


def test_a_link_to_a_hidden_folder_is_followed() -> None:
    touch(".versions/7/x.wav", ".versions/6/old.wav")
    Path("now").symlink_to(".versions/7")
    assert paths(".") == ["now/x.wav"]
    assert skipped(".") == {".versions": "hidden"}


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder `shut` that may not be listed, and `half shut` in which nothing may be looked at, for root too."""
    listdir, stat = os.listdir, os.stat

    def guarded_listdir(folder: bytes) -> list[bytes]:
        if os.path.basename(os.path.normpath(folder)) == b"shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return listdir(folder)

    def guarded_stat(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str) and os.path.basename(os.path.dirname(path)) == "half shut":
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "listdir", guarded_listdir)
    monkeypatch.setattr(os, "stat", guarded_stat)


@pytest.mark.usefixtures("shut")
def test_a_folder_that_cannot_be_read_is_an_input_that_will_fail() -> None:
    touch("open/a.wav", "sub/shut/b.wav", "z.wav")
    assert paths(".") == ["open/a.wav", "sub/shut", "z.wav"]
    assert Input("sub/shut", Path("sub/shut")) in find_inputs(["."])
    assert paths("sub/shut") == ["sub/shut"]
    assert skipped(".") == {}


@pytest.mark.usefixtures("shut")
def test_what_cannot_be_looked_at_is_an_input_that_will_fail_unless_it_is_excluded() -> None:
    touch("half shut/a.wav", "half shut/maybe a folder", "half shut/no.tmp", "half shut/.hidden")
    assert paths(".", exclude=["*.tmp"]) == ["half shut/a.wav", "half shut/maybe a folder"]
    assert skipped(".", exclude=["*.tmp"]) == {"half shut/.hidden": "hidden", "half shut/no.tmp": "excluded"}


def test_what_is_gone_since_its_folder_was_listed_is_an_input_that_will_fail() -> None:
    touch("a/1.wav", "a/2.wav", "a/3.part", "b/4.wav", "c.old/5.wav", "d.txt")
    found = find_inputs(["."], exclude=["*.old"])
    assert next(found).path == "a/1.wav"
    for name in ("a", "b", "c.old", "d.txt"):
        Path(name).rename(f"../{name}")
    assert [item.path for item in found if isinstance(item, Input)] == ["a/2.wav", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_fails_for_that_reason() -> None:
    touch("shut/b.wav")
    Path("shut").chmod(0)
    with pytest.raises(AudioError, match="permission denied"):
        probe(paths(".")[0])
    Path("shut").chmod(0o700)


@pytest.mark.parametrize(
    "name", ["a b.wav", "new\nline.wav", "'\".wav", "a,b.wav", "🐕.wav", "-x.wav", "[red].wav", "*.wav", "\udcff.wav"]
)
def test_names_may_hold_anything(name: str) -> None:
    touch(name)
    assert paths(".") == paths(name) == [name]
    found = list(find_inputs(["."]))
    assert isinstance(found[0], Input)
    assert found[0].source is not None
    assert found[0].source.read_bytes() == b"12345"


def test_a_deep_tree_is_no_problem() -> None:
    for _ in range(1200):  # deeper than Python's recursion limit, and than a path may be
        os.mkdir("d")
        os.chdir("d")
    touch("a.wav")
    for _ in range(300):
        os.chdir("..")
    found = paths(".")
    os.chdir("d/" * 300)
    os.remove("a.wav")
    for _ in range(1200):  # from below: pytest removes its folders by recursion, which so deep a tree stops
        os.chdir("..")
        os.rmdir("d")
    assert found == ["d/" * 300 + "a.wav"]


def test_walking_is_lazy() -> None:
    touch("a/1.wav", "b/2.wav")
    found = find_inputs(["."])
    assert next(found) == Input("a/1.wav", Path("a/1.wav"), 5, os.stat("a/1.wav").st_mtime_ns)
    touch("b/3.wav")
    assert [item.path for item in found] == ["b/2.wav", "b/3.wav"]


# --- include and exclude ---


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["a.mp3", "a.wav", "raw/a.wav", "raw/deep/b.wav"]),
        (["*.wav"], [], ["a.wav", "raw/a.wav", "raw/deep/b.wav"]),
        (["*.dat"], [], ["c.dat"]),
        (["*.dat", "b*"], [], ["c.dat", "raw/deep/b.wav"]),
        (["raw/*.wav"], [], ["raw/a.wav", "raw/deep/b.wav"]),
        ([], ["*.mp3"], ["a.wav", "raw/a.wav", "raw/deep/b.wav"]),
        ([], ["raw"], ["a.mp3", "a.wav"]),
        ([], ["raw/"], ["a.mp3", "a.wav"]),
        ([], ["raw/deep"], ["a.mp3", "a.wav", "raw/a.wav"]),
        ([], ["./raw/a.*"], ["a.mp3", "a.wav", "raw/deep/b.wav"]),
        (["*.wav"], ["a*"], ["raw/deep/b.wav"]),
        ([], ["*"], []),
    ],
)
def test_include_and_exclude_choose_below_folders(include: list[str], exclude: list[str], expected: list[str]) -> None:
    touch("a.mp3", "a.wav", "c.dat", "raw/a.wav", "raw/deep/b.wav")
    assert paths(".", include=include, exclude=exclude) == expected


def test_a_file_named_outright_is_not_excluded() -> None:
    touch("a.wav", "sub/a.wav")
    assert paths("a.wav", "sub", exclude=["*.wav"]) == ["a.wav"]
    assert skipped("sub", exclude=["*.wav"]) == {"sub/a.wav": "excluded"}
    assert skipped("sub", include=["*.mp3"]) == {"sub/a.wav": "not included"}


# --- globs ---


def test_globs_that_the_shell_left_are_expanded_in_order() -> None:
    touch("b.wav", "a.wav", "c.txt", "sub/d.wav", "sub-1/e.wav", ".hidden.wav")
    assert paths("*.wav") == ["a.wav", "b.wav"]
    assert paths("[bc].*") == ["b.wav", "c.txt"]
    assert paths("**/*.wav") == ["a.wav", "b.wav", "sub/d.wav", "sub-1/e.wav"]
    assert paths("s*") == ["sub/d.wav", "sub-1/e.wav"]
    assert paths("*.flac") == ["*.flac"]


def test_a_file_whose_name_is_a_glob_is_that_file() -> None:
    touch("[a].wav", "a.wav")
    assert paths("[a].wav") == ["[a].wav"]


def test_globs_do_not_run_in_link_loops() -> None:
    touch("sub/a.wav")
    Path("sub/loop").symlink_to("..")
    assert paths("**/*.wav") == ["sub/a.wav"]


# --- lists ---


@pytest.mark.parametrize(
    ("content", "null", "expected"),
    [
        (b"a.wav\nb c.wav\n", False, ["a.wav", "b c.wav"]),
        (b"a.wav\r\n\r\n\nb c.wav", False, ["a.wav", "b c.wav"]),
        (b"a.wav\0new\nline.wav\0", True, ["a.wav", "new\nline.wav"]),
        (b" a.wav \n-\n*.wav\n", False, [" a.wav ", "-", "*.wav"]),
        (b"\xff.wav\n", False, ["\udcff.wav"]),
        (b"\xef\xbb\xbfa.wav\n\xef\xbb\xbfb.wav\n", False, ["a.wav", "\ufeffb.wav"]),
        (b"\xef\xbb\xbf\r\na.wav", False, ["a.wav"]),
        (b"\xef\xbb\xbfa.wav\0", True, ["\ufeffa.wav"]),
        (b"", False, []),
    ],
)
def test_lists_are_read_byte_by_byte(
    content: bytes, null: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("list").write_bytes(content)
    assert paths(files_from="list", null=null) == expected
    monkeypatch.setattr("audiotag.inputs.lists.open_stdin", lambda: io.BytesIO(content))
    assert paths("first.wav", files_from="-", null=null) == ["first.wav", *expected]


def test_a_list_may_name_folders_and_be_long() -> None:
    touch("sub/a.wav")
    Path("list").write_text("sub\n" + "".join(f"{number:050}.wav\n" for number in range(5000)))
    found = paths(files_from="list")
    assert found[:2] == ["sub/a.wav", f"{0:050}.wav"]
    assert len(found) == 5001


def test_what_a_slow_writer_of_a_list_has_named_so_far_is_given_at_once() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a.wav\nb")
    end = threading.Timer(5.0, os.close, [writing])
    end.start()
    found = find_inputs([], files_from=f"/dev/fd/{reading}")
    begun = time.monotonic()
    assert next(found).path == "a.wav"
    assert time.monotonic() - begun < 4.0
    end.cancel()
    os.close(writing)
    assert [item.path for item in found] == ["b"]
    os.close(reading)


def test_a_list_that_does_not_exist_is_noticed_before_the_first_input() -> None:
    touch("a.wav")
    with pytest.raises(UsageError, match=r"list of files gone: No such file or directory\. Check its name"):
        next(find_inputs(["a.wav"], files_from="gone"))


@pytest.mark.parametrize("content", [b"a.wav\0b.wav\0", "\ufeffa.wav\r\n".encode("utf-16-le")])
def test_a_list_with_nul_bytes_is_not_taken_for_lines(content: bytes) -> None:
    Path("list").write_bytes(content)
    with pytest.raises(UsageError, match=r"list of files list: holds NUL bytes\. Add -0, or save the list as UTF-8"):
        paths(files_from="list")


def test_a_damaged_line_of_a_list_is_an_input_that_will_fail() -> None:
    touch("a.wav", "b.wav")
    Path("list").write_bytes(b"a.wav\nx\0y.wav\nb.wav\n")
    assert paths(files_from="list") == ["a.wav", "x\0y.wav", "b.wav"]


def test_a_name_of_nothing_is_refused_and_not_taken_for_this_folder() -> None:
    Path("a.wav").touch()
    with pytest.raises(UsageError, match="a variable of the shell not set"):
        paths("")


def test_a_list_that_cannot_be_one_is_refused() -> None:
    Path("binary").write_bytes(bytes(200_000))
    with pytest.raises(UsageError, match="list of files gone: No such file or directory"):
        paths(files_from="gone")
    with pytest.raises(UsageError, match="a name of more than 65536 bytes"):
        paths(files_from="binary")
    with pytest.raises(UsageError, match="stdin cannot be both"):
        paths("-", files_from="-")
