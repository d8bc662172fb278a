"""`audiotag report`: excerpts around events, their pictures and sound, and a page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from conftest import TINY_RATE, Ran, chirp, noise, siren, tone

from audiotag.audio import Waveform, encode_mp3, resample
from audiotag.frontend import LogMel
from audiotag.report import Excerpt, Shown, excerpts_of, page_of, render
from audiotag.report.excerpts import LONGEST
from audiotag.report.picture import picture
from audiotag.report.rendering import SOUND_RATE
from audiotag.results import ClipResult, Event, Failure, Tag
from audiotag.writers import run_header

AUDIOTAG = (sys.executable, "-m", "audiotag")
RunAudiotag = Callable[..., Ran]
WriteWav = Callable[..., Path]

HEADER = run_header(model="tiny", revision=None, sha256="ab12" * 16, parameters={"threshold": 0.5})


def clip(
    path: str, events: list[tuple[float, float, float]], *, start: float = 0.0, duration: float = 600.0
) -> ClipResult:
    found = tuple(Event(label="Dog", start=begin, end=end, score=score) for begin, end, score in sorted(events))
    tags = (Tag("Dog", max(event.score for event in found)),) if found else ()
    return ClipResult(path=path, duration=duration, start=start, tags=tags, events=found)


class Page(HTMLParser):
    """Elements of a page in their order, with their attributes and the text right in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.elements:
            self.elements[-1][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(texts).strip()) for name, attributes, texts in self.elements if name == tag]

    def contents(self, tag: str) -> list[bytes]:
        """What the sources of elements hold; all are in the page."""
        sources = [attributes["src"] or "" for attributes, _ in self.all(tag)]
        return [base64.b64decode(source.partition(";base64,")[2], validate=True) for source in sources]


# --- excerpts ---


def test_an_excerpt_is_an_event_with_a_second_around_it_within_the_input() -> None:
    result = clip("a", [(0.5, 2.0, 0.9), (30.0, 31.0, 0.8), (59.5, 60.0, 0.7)], duration=60.0)
    excerpts, count = excerpts_of([result], most=9)
    assert count == 3
    assert [(each.start, each.end) for each in excerpts] == [(0.0, 3.0), (29.0, 32.0), (58.5, 60.0)]


def test_neighbours_share_an_excerpt_and_long_events_are_shown_by_their_beginning() -> None:
    near = [(10.0, 11.0, 0.5), (12.9, 14.0, 0.6)]
    (excerpt,), _ = excerpts_of([clip("a", near)], most=9)
    assert (excerpt.start, excerpt.end, excerpt.score) == (9.0, 15.0, 0.6)
    excerpts, _ = excerpts_of([clip("a", [(100.0, 500.0, 0.9), (300.0, 301.0, 0.3)])], most=9)
    assert [(each.start, each.end) for each in excerpts] == [(99.0, 99.0 + LONGEST), (299.0, 302.0)]
    assert [len(each.events) for each in excerpts] == [1, 2]
    assert excerpts[1].score == 0.3
    excerpts, _ = excerpts_of([clip("a", [(0.0, 500.0, 0.9), (LONGEST, LONGEST + 1, 0.3)])], most=9)
    assert [each.start for each in excerpts] == [0.0, LONGEST], "an event may begin where an excerpt ends"


@pytest.mark.parametrize("seed", range(30))
def test_every_event_begins_in_one_excerpt_and_excerpts_do_not_overlap(seed: int) -> None:
    chance = random.Random(seed)
    start = chance.choice([0.0, 50.0])
    begins = [start + chance.uniform(0, 299) for _ in range(chance.randrange(1, 60))]
    events = [(begin, min(start + 300, begin + chance.expovariate(0.2)), chance.random()) for begin in begins]
    excerpts, count = excerpts_of([clip("a", events, start=start, duration=300.0)], most=10**6)
    assert count == len(excerpts)
    for event in sorted(events):
        assert sum(each.start <= event[0] < each.end for each in excerpts) == 1
    for before, after in pairwise(excerpts):
        assert before.end <= after.start
    for each in excerpts:
        heard = [event for event in sorted(events) if event[0] < each.end and event[1] > each.start]
        assert sorted((event.start, event.end, event.score) for event in each.events) == heard
        assert start <= each.start < each.end <= start + 300
        assert each.end - each.start <= LONGEST + 1e-9


def test_the_likeliest_excerpts_are_shown_in_the_order_of_inputs() -> None:
    first, last = clip("a", [(10.0, 11.0, 0.2), (50.0, 51.0, 0.9)]), clip("c", [(5.0, 6.0, 0.5)])
    results = [first, Failure(path="b", error="x"), last]
    excerpts, count = excerpts_of(results, most=2)
    assert count == 3
    assert [(each.path, each.score) for each in excerpts] == [("a", 0.9), ("c", 0.5)]


# --- pictures and sound ---


def pixels_of(png: bytes) -> Any:
    with av.open(io.BytesIO(png)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def test_a_picture_has_a_column_a_frame_and_low_bands_at_the_bottom() -> None:
    log_mel = np.full((7, 4), -5.0, dtype=np.float32)
    log_mel[2, 0] = 3.0  # the lowest band of the third frame
    pixels = pixels_of(picture(log_mel))
    assert pixels.shape == (4, 7, 3)
    brightness = pixels.sum(axis=2)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (3, 2)
    assert len(np.unique(brightness)) == 2


def test_louder_is_brighter_also_in_grey_and_silence_has_a_picture() -> None:
    levels = np.linspace(-20, 0, 60, dtype=np.float32)[:, None]
    brightness = pixels_of(picture(levels))[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness) >= -1).all()
    assert brightness[-1] > 200 > brightness[46] > 40 > brightness[0]  # 46: half of the range below the loudest
    assert pixels_of(picture(np.full((3, 2), -4.6, dtype=np.float32))).shape == (2, 3, 3)


def test_an_excerpt_sounds_and_looks_like_its_part_of_the_file(write_wav: WriteWav, tiny_config: Any) -> None:
    whole = np.concatenate([noise(seconds=5.0), chirp(seconds=3.0), noise(seconds=4.0)])
    path = write_wav("a.wav", whole)
    event = Event(label="Siren", start=5.5, end=7.5, score=0.9)
    excerpt = Excerpt(path="as given.wav", start=4.5, end=8.5, events=(event,))
    ((same, shown),) = render([excerpt], {"as given.wav": path}, tiny_config.frontend)
    assert same is excerpt
    assert shown.error is None
    part = whole[round(4.5 * TINY_RATE) : round(8.5 * TINY_RATE)]
    assert shown.picture == picture(LogMel(tiny_config.frontend)(part))

    assert shown.sound is not None
    heard, rate = soundfile.read(io.BytesIO(shown.sound), dtype="float32")
    assert rate == SOUND_RATE
    expected = np.concatenate(list(resample([part[:, None]], TINY_RATE, SOUND_RATE, 1)))[:, 0]
    assert abs(len(heard) - len(expected)) <= 1152  # samples of an MP3 frame
    length = min(len(heard), len(expected))
    assert np.corrcoef(heard[:length], expected[:length])[0, 1] > 0.95


def test_what_is_far_beyond_full_scale_is_cut_off_there_and_does_not_end_the_process() -> None:
    """LAME asserts that it has enough bits; so an abort of pytest is what a failure looks like."""
    loud = noise(seconds=6.0)
    assert encode_mp3(Waveform(1e9 * loud, SOUND_RATE)) == encode_mp3(Waveform(np.sign(loud), SOUND_RATE))


def test_without_sound_there_is_none(write_wav: WriteWav, tiny_config: Any) -> None:
    excerpt = Excerpt(path="a.wav", start=0.0, end=1.0, events=(Event(label="Dog", start=0, end=1, score=1),))
    ((_, shown),) = render([excerpt], {"a.wav": write_wav("a.wav", tone())}, tiny_config.frontend, sound=False)
    assert shown.sound is None
    assert shown.picture


@pytest.mark.parametrize("name", ["gone.wav", "shorter.wav"])
def test_a_file_that_is_gone_or_shorter_by_then_is_told_in_its_place(
    tmp_path: Path, write_wav: WriteWav, tiny_config: Any, name: str
) -> None:
    write_wav("shorter.wav", np.zeros(16000))
    excerpt = Excerpt(path="a.wav", start=2.0, end=3.0, events=(Event(label="Dog", start=2, end=3, score=1),))
    ((_, shown),) = render([excerpt], {"a.wav": tmp_path / name}, tiny_config.frontend)
    assert shown.error is not None
    page = Page("".join(page_of([clip("a.wav", [(2, 3, 1)])], [(excerpt, shown)], header=HEADER, n_excerpts=(1, 1))))
    assert [figure["data-seconds"] for figure, _ in page.all("figure")] == ["1.000"]
    assert page.all("img") == page.all("audio") == []
    assert any("cannot be read any more" in text for attributes, text in page.all("span"))


# --- the page ---


def test_names_are_text_and_never_markup() -> None:
    path, label = 'a"><script>alert(1)</script>&amp;\udcff\N{DOG FACE}.wav', "<b>Dog</b> \"&' </script>"
    event = Event(label=label, start=1.0, end=2.0, score=0.5)
    result = ClipResult(path=path, duration=10.0, tags=(Tag(label, 0.5),), events=(event,))
    failed = Failure(path=path + "<i>", error="<u>no</u>")
    header = {**HEADER, "parameters": {"include_labels": [label]}}
    excerpt = Excerpt(path=path, start=0.0, end=3.0, events=(event,))
    text = "".join(page_of([result, failed], [(excerpt, Shown(b"png", b"mp3"))], header=header, n_excerpts=(1, 1)))
    text.encode("utf-8")
    page = Page(text)
    tags = Counter(tag for tag, _, _ in page.elements)
    assert tags["script"] == 1
    assert tags["b"] == tags["u"] == 0
    shown_path = path.replace("\udcff", "\\udcff")
    assert page.all("h2")[0][1] == shown_path
    assert page.all("button")[0] == ({"data-label": label, "aria-pressed": "false"}, label)
    (figure,) = page.all("figure")
    assert json.loads(figure[0]["data-labels"] or "") == [label]


def test_the_page_says_how_much_it_leaves_out() -> None:
    text = "".join(page_of([clip("a", [(1, 2, 0.5)])], [], header=HEADER, n_excerpts=(200, 1234)))
    assert "The 200 likeliest of 1,234 excerpts are shown. Click a picture to hear it from there, a label" in text
    text = "".join(page_of([clip("a", [])], [], header=HEADER, n_excerpts=(0, 0)))
    assert "likeliest of" not in text
    assert "No label reached its threshold." in text


def test_recordings_of_which_no_excerpt_is_shown_are_named() -> None:
    clips = [clip("a", [(1, 2, 0.9)]), clip("b", [(1, 2, 0.5)]), clip("c", [(4, 5, 0.4)]), clip("d", [])]
    (shown,), n_excerpts = excerpts_of(clips, most=1)
    text = "".join(page_of(clips, [(shown, Shown())], header=HEADER, n_excerpts=(1, n_excerpts), sound=True))
    assert "<summary>2 whose events are not among the likeliest</summary><ul><li>b<li>c</ul>" in text
    assert "<summary>1 without an event</summary><ul><li>d</ul>" in text
    assert [text for _, text in Page(text).all("h2")] == ["a"]


def test_a_label_has_a_bar_for_each_event_and_its_name_over_the_first() -> None:
    result = clip("a", [(1.0, 2.0, 0.5), (5.0, 6.0, 0.9)])
    assert result.events is not None
    excerpt = Excerpt(path="a", start=0.0, end=10.0, events=result.events)
    page = Page("".join(page_of([result], [(excerpt, Shown())], header=HEADER, n_excerpts=(1, 1))))
    assert [bar["style"] for bar, _ in page.all("i")] == ["left:10.00%;width:10.00%", "left:50.00%;width:10.00%"]
    assert page.all("span") == [({"style": "left:10.00%"}, "Dog 0.50")]


def test_what_was_wrong_with_a_recording_stands_beside_its_name() -> None:
    event = Event(label="Dog", start=1.0, end=2.0, score=0.5)
    cut = ClipResult(path="a.mp3", duration=9.0, tags=(Tag("Dog", 0.5),), events=(event,), warning="damaged after 9 s")
    shown = [(Excerpt(path="a.mp3", start=0.0, end=3.0, events=(event,)), Shown())]
    page = Page("".join(page_of([cut], shown, header=HEADER, n_excerpts=(1, 1))))
    assert ({"class": "failed"}, "damaged after 9 s") in page.all("small")
    quiet = ClipResult(path="b.mp3", duration=8.0, tags=(), events=(), warning="damaged after 8 s")
    page = Page("".join(page_of([cut, quiet], shown, header=HEADER, n_excerpts=(1, 1))))
    assert [text for _, text in page.all("small")][1:] == ["damaged after 9 s", "damaged after 8 s"]


# --- the command ---

pytestmark = pytest.mark.usefixtures("in_folder_with_tiny_model")


@pytest.fixture
def recordings(write_wav: WriteWav, tmp_path: Path) -> Path:
    write_wav("in/long.wav", np.concatenate([noise(seconds=8.0), tone(seconds=3.0), siren(seconds=6.0)]))
    write_wav("in/other.wav", noise(seconds=3.0, seed=4))
    (tmp_path / "in" / "broken.mp3").write_text("these are notes, not sound\n" * 50)
    return tmp_path / "in"


def test_the_page_shows_the_events_and_needs_nothing_else(
    run_audiotag: RunAudiotag, recordings: Path, tmp_path: Path
) -> None:
    options = ("-t", "0.5", "--min-duration", "0.2", "--no-progress")
    ran = run_audiotag("report", "in", *options, "--out", "page.html")
    assert (ran.code, ran.stdout) == (3, "")
    assert ran.stderr.splitlines()[-1].startswith("2 ok, 0 empty, 1 failed; ")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    assert page.all("title") == page.all("h1") == [({}, "3 recordings, 0:00:20.0")]
    assert [text for _, text in page.all("h2")] == ["in/long.wav", "in/other.wav", "Could not be read"]

    records = [json.loads(line) for line in run_audiotag("events", "in", *options).stdout.splitlines()]
    events = [(record["path"], event) for record in records for event in record.get("events", ())]
    counts = Counter(event["label"] for _, event in events)
    cells = [text for _, text in page.all("td")]
    shown = {label: (int(cells[5 * row + 1]), int(cells[5 * row + 2]))
             for row, (_, label) in enumerate(page.all("button"))}  # fmt: skip
    assert shown == {label: (count, len({path for path, event in events if event["label"] == label}))
                     for label, count in counts.items()}  # fmt: skip
    seconds = {label: sum(event["end"] - event["start"] for _, event in events if event["label"] == label)
               for label in counts}  # fmt: skip
    assert list(shown) == sorted(seconds, key=lambda label: -seconds[label])
    assert len(page.all("i")) >= len(events)
    assert len(page.all("figure")) == len(page.contents("img")) == len(page.contents("audio")) > 1
    for (attributes, _), sound in zip(page.all("figure"), page.contents("audio"), strict=True):
        info = soundfile.info(io.BytesIO(sound))
        assert info.duration == pytest.approx(float(attributes["data-seconds"] or 0), abs=0.05)
    assert run_audiotag("report", "in", *options, "--out", "again.html").code == 3
    ran = run_audiotag("report", "in", *options[:-1], "--out", "told.html")
    assert f"excerpts {len(page.all('figure'))}/{len(page.all('figure'))}" in ran.stderr.splitlines()
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_a_pipe_gets_the_page_and_options_thin_it_out(run_audiotag: RunAudiotag, recordings: Path) -> None:
    ran = run_audiotag("report", "in/long.wav", "-t", "0.5", "--max-excerpts", "1", "--no-sound", "-q")
    page = Page(ran.stdout)
    assert (ran.code, ran.stderr) == (0, "")
    assert len(page.all("figure")) == 1
    assert page.all("audio") == []
    assert "hear" not in page.all("p")[0][1]
    assert page.all("title") == [({}, "in/long.wav")]
    ran = run_audiotag("report", "in/long.wav", "-t", "1", "-q")
    assert (ran.code, Page(ran.stdout).all("figure")) == (0, [])
    assert "<summary>1 without an event</summary>" in ran.stdout


def test_ctrl_c_ends_soon_while_sound_is_encoded_and_leaves_nothing(write_wav: WriteWav, tmp_path: Path) -> None:
    """libsndfile's callbacks swallow it on the thread that calls them."""
    write_wav("long.wav", np.tile(np.concatenate([noise(seconds=8.0), tone(seconds=3.0), siren(seconds=6.0)]), 100))
    command = [*AUDIOTAG, "report", "long.wav", "-t", "0.5", "--no-progress", "--out", "page.html"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while process.poll() is None and not (tmp_path / "page.html.partial").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert (process.returncode, process.stderr.read()) == (130, b"")
        assert time.monotonic() - begun < 2.0
    assert not list(tmp_path.glob("page.html*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_with_a_name_is_refused_before_it_is_read(
    run_audiotag: RunAudiotag, recordings: Path, tmp_path: Path
) -> None:
    """A second opening of it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    ran = run_audiotag("report", "in", "pipe.wav", "--out", "page.html")
    assert ran.code == 2
    assert "pipe.wav: can be read only once, and a report needs its audio twice" in ran.stderr


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (("in", "--out", "there.html"), 1, "there.html: exists. Choose another name, or replace it with --overwrite"),
    (("in", "--out", "same.html", "--overwrite"), 2, "same.html: is an input and would be overwritten"),
    (("--files-from", "there.html", "--out", "there.html", "--overwrite"), 2, "there.html: is an input and would be"),
    (("in", "--overwrite"), 2, "overwrite: there is no file without --out"),
    (("in", "--out", "new.csv"), 2, "new.csv: a report is a page for a browser. Give --out a name that ends in .html"),
    (("-", "--out", "new.html"), 2, "stdin: can be read only once, and a report needs its audio twice"),
    (("in", "--channels", "each", "--out", "new.html"), 2, "channels 'each' gives several results"),
    (("in", "--include-labels", "Dgo", "--out", "new.html"), 2, "Did you mean 'Dog'?"),
    (("--out", "new.html"), 2, "no INPUT was given"),
])  # fmt: skip
def test_what_cannot_be_made_is_one_line_and_writes_nothing(
    run_audiotag: RunAudiotag, recordings: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "same.html").hardlink_to(recordings / "long.wav")
    before = (recordings / "long.wav").read_bytes()
    ran = run_audiotag("report", *arguments)
    assert ran.code == code
    assert message in ran.stderr.splitlines()[-1]
    assert (tmp_path / "there.html").read_text() == "mine"
    assert (recordings / "long.wav").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
