"""Does this machine give the right answers? Synthetic clips through each engine, compared with one another.

A model folder may hold the answers that its maker got (`selftest.json`); then every engine has to meet those.
"""

from __future__ import annotations

import json
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from audiotag.engines.onnx import FILE_OF_PRECISION
from audiotag.errors import AudiotagError, ModelError
from audiotag.model_folder import ONNX, WEIGHTS, ModelFolder
from audiotag.options import EngineOptions, TagOptions
from audiotag.results import ClipResult
from audiotag.tagger import Tagger

FloatArray = npt.NDArray[np.float32]
Answers = dict[str, dict[str, float]]  # clip -> label -> score

ANSWERS_FILE = "selftest.json"

# Largest difference of a clip's score from the reference, by precision: the product's promise for float32, and what 8
# bits, or mantissas of 10 (fp16) and 7 bits (bf16), leave of it for the others.
TOLERANCE_OF_PRECISION = {"fp32": 1e-5, "int8": 0.2, "fp16": 5e-3, "bf16": 5e-2}


def _phase_of(frequency: npt.NDArray[np.float64], sample_rate: int) -> npt.NDArray[np.float64]:
    return np.asarray(2 * np.pi * np.cumsum(frequency) / sample_rate)


def synthetic_clips(sample_rate: int, seconds: float) -> dict[str, FloatArray]:
    """Sounds that differ in everything a front-end sees. Shape: each `[sample]`."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    swing = 900.0 + 500.0 * np.sin(2 * np.pi * time)
    clicks = np.zeros(len(time))
    clicks[:: sample_rate // 8] = 0.9
    sounds = {
        "tone": 0.5 * np.sin(2 * np.pi * 440.0 * time),
        "chirp": 0.5 * np.sin(_phase_of(100.0 + time / seconds * 0.4 * sample_rate, sample_rate)),
        "siren": 0.5 * np.sin(_phase_of(swing, sample_rate)),
        "clicks": clicks,
        "noise": np.random.RandomState(0).uniform(-0.3, 0.3, len(time)),  # its stream never changes between releases
        "silence": np.zeros(len(time)),
        "short": 0.5 * np.sin(2 * np.pi * 1000.0 * time[: len(time) // 20]),
    }
    return {name: samples.astype(np.float32) for name, samples in sounds.items()}


def answers_of(folder: ModelFolder, options: EngineOptions) -> Answers:
    """The scores of all labels for every synthetic clip, through the whole pipeline.

    Raises:
        AudiotagError: the engine is not available or failed.
    """
    tagger = Tagger(folder, options=options)
    config = folder.config
    clips = synthetic_clips(config.frontend.sample_rate, 2.6 * config.window_seconds)
    with tempfile.TemporaryDirectory(prefix="audiotag-selftest-") as scratch:
        paths = {name: Path(scratch, f"{name}.wav") for name in clips}
        for name, samples in clips.items():
            write_wav(paths[name], samples, config.frontend.sample_rate)
        results = list(tagger.tag_many(paths.values(), options=TagOptions(top_k=0, threshold=0.0)))
    return {name: _scores(result) for name, result in zip(clips, results, strict=True)}


def write_wav(path: Path, samples: FloatArray, sample_rate: int) -> None:
    """A 16-bit mono file: the same bytes with every release of libsndfile, as recorded answers need."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def _scores(result: object) -> dict[str, float]:
    assert isinstance(result, ClipResult), result
    return {tag.label: tag.score for tag in result.tags}


def engines_here(folder: ModelFolder) -> list[EngineOptions]:
    """Every engine, device and precision that this machine has and the model has files for; one at least.

    Raises:
        ModelError: there is none.
    """
    found = list(_engines_here(folder))
    if not found:
        folder.file(ONNX)  # raises, with the way to get it
    return found


def _engines_here(folder: ModelFolder) -> Iterator[EngineOptions]:
    on_cpu = EngineOptions(device="cpu", engine="onnx", precision="fp32")
    for precision in ("fp32", "int8"):
        if folder.has(FILE_OF_PRECISION[precision]):
            yield replace(on_cpu, precision=precision)
    if find_spec("torch") is None or not folder.has(WEIGHTS):
        return
    yield EngineOptions(device="cpu", engine="torch", precision="fp32")
    from audiotag.engines.torch import DTYPE_OF_PRECISION, devices_here

    for device in devices_here():
        for precision in DTYPE_OF_PRECISION:
            yield EngineOptions(device=device, engine="torch", precision=precision)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """How far an engine's answers are from the reference's; `error` where it gave none."""

    engine: str  # 'onnx cpu fp32'
    reference: str
    difference: float | None
    allowed: float
    error: str | None = None

    @property
    def is_within(self) -> bool:
        """Whether the answers agree."""
        return self.difference is not None and self.difference <= self.allowed


def compare(folder: ModelFolder) -> Iterator[Comparison]:
    """Each engine against the recorded answers, or against the first engine where none are recorded.

    Then the first engine against itself, one window at a time on one thread.

    Raises:
        ModelError: no engine here can run the model, or the recorded answers cannot be read.
    """
    reference_name, reference = "the recorded answers", read_answers(folder)
    engines = engines_here(folder)
    one_by_one = replace(engines[0], batch_size=1, workers=1, threads=1)
    for options in [*engines, one_by_one]:
        name = f"{options.engine} {options.device} {options.precision}" + (" one by one" if options.batch_size else "")
        allowed = TOLERANCE_OF_PRECISION[options.precision]
        try:
            answers = answers_of(folder, options)
        except AudiotagError as error:
            yield Comparison(name, reference_name, None, allowed, str(error))
            continue
        if reference is None:
            reference_name, reference = name, answers
        yield Comparison(name, reference_name, largest_difference(answers, reference), allowed)


def largest_difference(answers: Answers, reference: Answers) -> float:
    """Over all clips and labels; infinite where they do not hold the same."""
    if answers.keys() != reference.keys() or any(answers[clip].keys() != reference[clip].keys() for clip in answers):
        return float("inf")
    return max(abs(answers[clip][label] - score) for clip in reference for label, score in reference[clip].items())


def read_answers(folder: ModelFolder) -> Answers | None:
    """The answers that the model's maker recorded, or None.

    Raises:
        ModelError: the file holds something else.
    """
    if not folder.has(ANSWERS_FILE):
        return None
    path = folder.file(ANSWERS_FILE)
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        return {clip: {label: float(scores[label]) for label in scores} for clip, scores in recorded.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: holds no answers of a self-test: {error}. Make them anew with --record") from error


def record_answers(folder: ModelFolder) -> Path:
    """Writes the answers of the first engine into the model folder, and gives the file.

    Raises:
        AudiotagError: no engine here can run the model, or it failed.
    """
    answers = answers_of(folder, engines_here(folder)[0])
    rounded = {clip: {label: round(score, 7) for label, score in scores.items()} for clip, scores in answers.items()}
    path = folder.path / ANSWERS_FILE
    path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    return path
