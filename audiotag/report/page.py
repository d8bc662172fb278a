"""The HTML of a report, piece by piece. Where scripts are off, the page shows and plays the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from audiotag.report.excerpts import Excerpt
from audiotag.results import ClipResult, Event, Failure, Result
from audiotag.web_page import END_OF_PAGE, begin_page, safe

STYLE = """
h2 { font-size: 1.05rem; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; } h2 small { font-weight: 400; }
button { font: inherit; color: var(--mark); background: none; border: 0; padding: 0; text-align: left;
         cursor: pointer; }
button[aria-pressed=true] { font-weight: 700; text-decoration: underline; }
td.text { overflow-wrap: break-word; }
.excerpts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem; }
figcaption { font-variant-numeric: tabular-nums; }
.strip { position: relative; cursor: pointer; overflow: hidden; }
.strip img { display: block; width: 100%; height: 7rem; }
.row { position: relative; height: 1.35rem; margin-top: 2px; font-size: .8rem; line-height: 1.35rem; }
.row i { position: absolute; top: 0; bottom: 0; background: var(--soft); border-radius: 3px; }
.row span { position: absolute; padding-left: .3rem; white-space: nowrap; }
.head { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; mix-blend-mode: difference;
        display: none; }
audio { width: 100%; height: 2rem; margin-top: .3rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; } .failed, small.failed { color: var(--dot); }
[hidden] { display: none !important; }
"""

SCRIPT = """
for (const figure of document.querySelectorAll("figure")) {
  const strip = figure.querySelector(".strip"), head = figure.querySelector(".head");
  const sound = figure.querySelector("audio"), seconds = Number(figure.dataset.seconds);
  if (!sound) continue;
  strip.onclick = event => {
    const box = strip.getBoundingClientRect();
    sound.currentTime = (event.clientX - box.left) / box.width * seconds;
    sound.play();
  };
  sound.ontimeupdate = () => {
    head.style.display = "block";
    head.style.left = 100 * sound.currentTime / seconds + "%";
  };
  sound.onplay = () => document.querySelectorAll("audio").forEach(other => other === sound || other.pause());
}
const buttons = [...document.querySelectorAll("button[data-label]")];
for (const button of buttons) button.onclick = () => {
  const wanted = button.getAttribute("aria-pressed") === "true" ? null : button.dataset.label;
  for (const other of buttons) other.setAttribute("aria-pressed", other === button && wanted !== null);
  for (const figure of document.querySelectorAll("figure"))
    figure.hidden = wanted !== null && !JSON.parse(figure.dataset.labels).includes(wanted);
  for (const section of document.querySelectorAll("section"))
    section.hidden = !section.querySelector("figure:not([hidden])");
};
"""


@dataclass(frozen=True)
class Shown:
    """What an excerpt looks and sounds like: PNG, and MP3 where sound was asked for; or why neither can be had."""

    picture: bytes = b""
    sound: bytes | None = None
    error: str | None = None


def page_of(
    results: Sequence[Result],
    excerpts: Iterable[tuple[Excerpt, Shown]],
    *,
    header: Mapping[str, Any],
    n_excerpts: tuple[int, int],
    sound: bool = True,
) -> Iterator[str]:
    """The pieces of the page; `excerpts` are taken one by one, in the order of `results`.

    `header` is the run's (`writers.run_header`), `n_excerpts` how many are shown, and how many there are; `sound` says
    whether they have theirs.
    """
    clips = {result.path: result for result in results if isinstance(result, ClipResult)}
    title = _title(results, sum(clip.duration for clip in clips.values()))
    yield begin_page(title, style=STYLE)
    yield f"<h1>{safe(title)}</h1>\n" + _about(header, n_excerpts, sound=sound) + _labels(results)
    shown_paths: set[str] = set()
    for path, of_input in groupby(excerpts, key=lambda pair: pair[0].path):
        shown_paths.add(path)
        yield f"<section>{_heading(clips[path])}\n<div class=excerpts>\n"
        yield from (_figure(excerpt, shown) for excerpt, shown in of_input)
        yield "</div></section>\n"
    yield _others(results, shown_paths) + f"<script>{SCRIPT}</script>\n" + END_OF_PAGE


def _title(results: Sequence[Result], seconds: float) -> str:
    return results[0].path if len(results) == 1 else f"{len(results):,} recordings, {_clock(seconds)}"


def _heading(clip: ClipResult) -> str:
    return f"<h2>{safe(clip.path)} <small>{_clock(clip.duration)}</small>{_warning(clip)}</h2>"


def _warning(clip: ClipResult) -> str:
    return "" if clip.warning is None else f" <small class=failed>{safe(clip.warning)}</small>"


def _about(header: Mapping[str, Any], n_excerpts: tuple[int, int], *, sound: bool) -> str:
    shown, there_are = n_excerpts
    which = "" if shown == there_are else f" The {shown:,} likeliest of {there_are:,} excerpts are shown."
    facts = f"audiotag {header['version']}, model {header['model']} ({header['sha256'][:12]})."
    hear = "a picture to hear it from there, " if sound else ""
    options = json.dumps(header["parameters"], ensure_ascii=False)
    return (
        f"<p class=note>{safe(facts + which)} Click {hear}a label to see it alone.</p>\n"
        f"<details class=note><summary>Options</summary><pre>{safe(options)}</pre></details>\n"
    )


def _labels(results: Sequence[Result]) -> str:
    """How often and how long each label is heard, the longest first."""
    heard: dict[str, list[tuple[str, Event]]] = {}
    for result in results:
        for event in (result.events or ()) if isinstance(result, ClipResult) else ():
            heard.setdefault(event.label, []).append((result.path, event))
    if not heard:
        return "<p>No label reached its threshold.</p>\n"
    columns = ("label", "events", "recordings", "total time", "highest score")
    head = "".join(f"<th{kind}>{column}</th>" for column, kind in zip(columns, (" class=text", *[""] * 4), strict=True))
    longest_first = sorted(heard.items(), key=lambda item: (-_seconds(item[1]), item[0]))
    rows = "".join(_label(label, events) for label, events in longest_first)
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>\n"


def _label(label: str, events: list[tuple[str, Event]]) -> str:
    likeliest, n_inputs = max(event.score for _, event in events), len({path for path, _ in events})
    button = f'<button data-label="{safe(label)}" aria-pressed=false>{safe(label)}</button>'
    cells = (f"{len(events):,}", f"{n_inputs:,}", _clock(_seconds(events)), f"{likeliest:.2f}")
    return f"<tr><td class=text>{button}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _seconds(events: list[tuple[str, Event]]) -> float:
    return sum(event.end - event.start for _, event in events)


def _figure(excerpt: Excerpt, shown: Shown) -> str:
    seconds = excerpt.end - excerpt.start
    labels = list(dict.fromkeys(event.label for event in excerpt.events))
    times = f"{_clock(excerpt.start)} to {_clock(excerpt.end)}"
    rows = "".join(_row(label, excerpt) for label in labels)
    image = f'<img alt="log-mel, {times}" src="{_data("image/png", shown.picture)}">' if shown.picture else ""
    sound = ""
    if shown.sound is not None:
        sound = f'<audio controls preload=metadata src="{_data("audio/mpeg", shown.sound)}"></audio>'
    error = "" if shown.error is None else f" <span class=failed>{safe(shown.error)}</span>"
    return (
        f'<figure data-seconds="{seconds:.3f}" data-labels="{safe(json.dumps(labels))}">'
        f"<div class=strip>{image}{rows}<div class=head></div></div>{sound}"
        f"<figcaption>{times}{error}</figcaption></figure>\n"
    )


def _row(label: str, excerpt: Excerpt) -> str:
    """A label's events as bars below the picture, and its name over the first."""

    def place(time: float) -> float:
        return 100 * (min(max(time, excerpt.start), excerpt.end) - excerpt.start) / (excerpt.end - excerpt.start)

    bars, first = "", None
    for event in (event for event in excerpt.events if event.label == label):
        left, right = place(event.start), place(event.end)
        title = f"{label} {event.score:.2f}, {_clock(event.start)} to {_clock(event.end)}"
        bars += f'<i style="left:{left:.2f}%;width:{right - left:.2f}%" title="{safe(title)}"></i>'
        first = first or f'<span style="left:{min(left, 60):.2f}%">{safe(label)} {event.score:.2f}</span>'
    return f"<div class=row>{bars}{first}</div>"


def _others(results: Sequence[Result], shown_paths: Collection[str]) -> str:
    """Inputs of which nothing is shown, and why."""
    clips = [result for result in results if isinstance(result, ClipResult) and result.path not in shown_paths]
    failures = [
        f"{safe(result.path)}: <span class=failed>{safe(result.error)}</span>"
        for result in results
        if isinstance(result, Failure)
    ]
    unshown = [safe(clip.path) + _warning(clip) for clip in clips if clip.status == "ok"]
    empty = [safe(clip.path) + _warning(clip) for clip in clips if clip.status == "empty"]
    return (
        _list("<h2>Could not be read</h2>{}\n", failures)
        + _folded("whose events are not among the likeliest", unshown)
        + _folded("without an event", empty)
    )


def _folded(what: str, items: Sequence[str]) -> str:
    return _list(f"<details><summary>{len(items):,} {what}</summary>{{}}</details>\n", items)


def _list(frame: str, items: Sequence[str]) -> str:
    return frame.format(f"<ul>{''.join(f'<li>{item}' for item in items)}</ul>") if items else ""


def _clock(seconds: float) -> str:
    """`h:mm:ss.s`.

    >>> _clock(3723.46), _clock(90000.0)
    ('1:02:03.5', '25:00:00.0')
    """
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
