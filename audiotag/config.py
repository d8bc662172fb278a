"""The records that say what a model is; nothing of this is a constant anywhere else.

`ModelConfig` is the whole of a model folder's `config.json` and `preprocessor_config.json`; `model_folder` reads and
writes the files. Six published models and ours differ only in these values.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_type_hints

ARCHITECTURE = "AudioRepInceptionNeXt"
MODEL_TYPE = "audio-rep-inception-next"

# How a clip that is shorter than a window is filled up: with silence, with its last frame or sample again and again, or
# with the whole of it again and again.
Padding = Literal["silence", "last_frame", "last_sample", "repeat"]
Activation = Literal["softmax", "sigmoid"]
Aggregate = Literal["mean", "max"]
PROBLEM_TYPE_OF: dict[Activation, str] = {
    "softmax": "single_label_classification",
    "sigmoid": "multi_label_classification",
}


# int8 is taken by itself where the model's card says that it costs at most this many points of mAP (0 to 100).
MAX_INT8_MAP_LOSS = 0.5
# And where it is clearly faster: with ONNX Runtime 1.31 on 2 cores with AVX-512 VNNI it is 0.8 times as fast as float32
# for a network of 0.03 GMAC a window, 1.1 times for 0.06, 1.5 times for 0.10, 1.8 times for 0.23 and 2.2 for 0.40.
LEAST_INT8_GMACS = 0.1


@dataclass(frozen=True, kw_only=True)
class FrontEndConfig:
    """From a waveform window to a log-mel: librosa's meanings, samples and Hz. Fixed by training.

    The STFT is centred: `n_fft // 2` zeros on each side, a periodic Hann window of `win_length` zero-padded centrally
    to `n_fft`, so `1 + n_samples // hop_length` frames. Then magnitude (power 1), HTK mel triangles without
    normalisation, natural log of `mel + log_offset`.
    """

    sample_rate: int  # Hz
    n_fft: int  # samples
    win_length: int  # samples
    hop_length: int  # samples
    n_mels: int  # bands
    fmin: float  # Hz
    fmax: float  # Hz
    log_offset: float = 1e-6  # magnitude added before the logarithm

    def __post_init__(self) -> None:
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                "hop_length, win_length and n_fft must rise and be positive, "
                f"not {self.hop_length}, {self.win_length}, {self.n_fft}"
            )
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"fmin and fmax must rise within 0 and {self.sample_rate / 2} Hz, not {self.fmin}, {self.fmax}"
            )
        if self.n_mels < 1 or self.log_offset <= 0:
            raise ValueError(f"n_mels and log_offset must be positive, not {self.n_mels}, {self.log_offset}")

    def n_frames(self, n_samples: int) -> int:
        """Frames of a waveform of `n_samples`."""
        return 1 + n_samples // self.hop_length


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """The excerpt that the network sees. Fixed by training."""

    n_samples: int  # samples of a full window
    n_frames: int  # frames of its log-mel
    padding: Padding = "silence"  # how a shorter clip is filled up
    repeat_gap: int = 0  # samples of silence (as whole frames) before a clip comes again, where the padding is "repeat"
    view_length: int = 0  # samples that views are spread for (the authors' C = n_samples + 1); 0: n_samples

    def __post_init__(self) -> None:
        if self.n_samples < 1 or self.n_frames < 1:
            raise ValueError(f"n_samples and n_frames must be positive, not {self.n_samples}, {self.n_frames}")
        if self.padding not in get_args(Padding):
            raise ValueError(f"padding must be one of {', '.join(get_args(Padding))}, not {self.padding!r}")
        if self.repeat_gap < 0:
            raise ValueError(f"repeat_gap must be 0 or more, not {self.repeat_gap}")
        if self.view_length == 0:
            object.__setattr__(self, "view_length", self.n_samples)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A named slice of the last layer's outputs; most models have one, without a name."""

    name: str
    size: int  # outputs

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a head needs one output at least, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The shape of an AudioRepInceptionNeXt. The defaults are the published size (Lau, Rehman, Po, 2024, table 1)."""

    n_labels: int  # outputs, all heads together
    width: int = 64  # channels of the first stage; each later stage has twice as many
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    kernel_sizes: tuple[int, ...] = (21, 11, 3)  # depth-wise branches, largest first, odd
    dropout: float = 0.5  # before the head, in training only

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "kernel_sizes", tuple(self.kernel_sizes))
        if self.n_labels < 1 or self.width < 1 or not self.depths or min(self.depths) < 1:
            raise ValueError(f"n_labels, width and depths must be positive: {self}")
        if not self.kernel_sizes or any(size % 2 == 0 or size < 1 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, not {self.kernel_sizes}")
        if self.kernel_sizes[0] != max(self.kernel_sizes):
            raise ValueError(f"kernel_sizes must begin with the largest, not {self.kernel_sizes}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be 0 to 1, not {self.dropout}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def n_parameters(self) -> int:
        """Weights and biases of the fused form."""
        count, n_in = self.width * 5 * 7 + self.width, self.width  # stem
        for stage, (n_out, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            mixing = 2 * (self.kernel_sizes[0] * n_out + n_out)  # along time, along frequency
            # reduce, mix, expand and project, each with its biases
            count += depth * (n_out * n_out + n_out + mixing + 2 * 4 * n_out * n_out + 5 * n_out)
            if stage > 0:
                count += 2 * n_in * n_out - n_out * n_out + n_out  # the first block: reduce from n_in, and a shortcut
            n_in = n_out
        return count + n_in * self.n_labels + self.n_labels

    def n_macs(self, n_frames: int, n_mels: int) -> int:
        """Multiplications with addition in the fused form, for one log-mel."""
        size = -(-n_frames // 2) * -(-n_mels // 2)
        macs = size * self.width * 5 * 7  # stem
        n_in, rows, columns = self.width, -(-n_frames // 4), -(-n_mels // 4)
        for stage, (n_out, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            if stage > 0:
                rows, columns = -(-rows // 2), -(-columns // 2)
            mixing = 2 * self.kernel_sizes[0] * n_out  # along time, along frequency
            block = n_out * n_out + mixing + 2 * 4 * n_out * n_out  # reduce, mix, expand and project
            first = 2 * n_in * n_out - n_out * n_out if stage > 0 else 0  # reduce from n_in, and a shortcut
            macs += rows * columns * (depth * block + first)
            n_in = n_out
        return macs + n_in * self.n_labels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All that is needed to go from a waveform to tags with a model's weights."""

    network: NetworkConfig
    frontend: FrontEndConfig
    window: WindowConfig
    labels: tuple[str, ...]
    activation: Activation  # how logits become scores; softmax runs over each head by itself
    aggregate: Aggregate = "mean"  # how the scores of a clip's windows become one
    heads: tuple[HeadConfig, ...] = ()  # empty: one head without a name
    thresholds: tuple[float, ...] = ()  # per label: the least score that is shown by default; empty: 0 for all
    int8_map_loss: float | None = None  # points of macro mAP (0 to 100) lost by model_int8.onnx; None: not measured
    license: str | None = None  # SPDX identifier of the weights
    provenance: dict[str, Any] = field(default_factory=dict)  # where the weights come from
    metrics: dict[str, Any] = field(default_factory=dict)  # what was measured, on what

    def __post_init__(self) -> None:
        n_labels = self.network.n_labels
        if len(self.labels) != n_labels:
            raise ValueError(f"the network has {n_labels} outputs, but there are {len(self.labels)} labels")
        if self.heads and sum(head.size for head in self.heads) != n_labels:
            raise ValueError(f"the heads {self.heads} do not add up to {n_labels} outputs")
        if not self.thresholds:
            object.__setattr__(self, "thresholds", (0.0,) * n_labels)
        if len(self.thresholds) != n_labels:
            raise ValueError(f"{len(self.thresholds)} thresholds for {n_labels} labels")
        if not all(map(math.isfinite, (*self.thresholds, 0.0 if self.int8_map_loss is None else self.int8_map_loss))):
            raise ValueError("a threshold or int8_map_loss is no finite number")
        if not isinstance(self.license, str | None):
            raise ValueError(f"license must be text, not {self.license!r}")
        if self.activation not in PROBLEM_TYPE_OF:
            raise ValueError(f"activation must be {' or '.join(PROBLEM_TYPE_OF)}, not {self.activation!r}")
        if self.aggregate not in get_args(Aggregate):
            raise ValueError(f"aggregate must be {' or '.join(get_args(Aggregate))}, not {self.aggregate!r}")
        expected = self.frontend.n_frames(self.window.n_samples)
        if self.window.n_frames != expected:
            raise ValueError(
                f"a window of {self.window.n_samples} samples has {expected} frames, not {self.window.n_frames}"
            )

    @property
    def window_seconds(self) -> float:
        """Length of a full window, in seconds."""
        return self.window.n_samples / self.frontend.sample_rate

    @property
    def prefers_int8(self) -> bool:
        """Whether a CPU takes int8 when nobody asks for a precision."""
        is_cheap = self.int8_map_loss is not None and self.int8_map_loss <= MAX_INT8_MAP_LOSS
        return is_cheap and self.gmacs_per_window >= LEAST_INT8_GMACS

    @property
    def gmacs_per_window(self) -> float:
        """Cost of a window, in 1e9 multiplications with addition, the front-end aside."""
        return self.network.n_macs(self.window.n_frames, self.frontend.n_mels) / 1e9

    @property
    def head_slices(self) -> tuple[tuple[str | None, slice], ...]:
        """Name (None for the only head) and outputs of each head."""
        if not self.heads:
            return ((None, slice(0, self.network.n_labels)),)
        slices, start = [], 0
        for head in self.heads:
            slices.append((head.name, slice(start, start + head.size)))
            start += head.size
        return tuple(slices)

    def head_of(self, label: int) -> str | None:
        """Name of the head that the label at this position belongs to."""
        return next(name for name, outputs in self.head_slices if label < outputs.stop)

    def to_config_dict(self) -> dict[str, Any]:
        """The content of `config.json`, as `transformers` lays it out, with our fields beside it."""
        shown: dict[str, Any] = {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "problem_type": PROBLEM_TYPE_OF[self.activation],
            "id2label": {str(index): name for index, name in enumerate(self.labels)},
            "label2id": {name: index for index, name in enumerate(self.labels)},
            "network": asdict(self.network),
            "aggregate": self.aggregate,
        }
        if self.heads:
            shown["heads"] = [asdict(head) for head in self.heads]
        if any(self.thresholds):
            shown["thresholds"] = dict(zip(self.labels, self.thresholds, strict=True))
        if self.int8_map_loss is not None:
            shown["int8_map_loss"] = self.int8_map_loss
        if self.license is not None:
            shown["license"] = self.license
        return {**shown, "provenance": self.provenance, "metrics": self.metrics}

    def to_preprocessor_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`."""
        return {"frontend": asdict(self.frontend), "window": asdict(self.window)}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe: how a network is trained, and on what. The finished model keeps it as provenance only."""

    width: int = 24  # channels of the first stage
    depths: tuple[int, ...] = (3, 4, 6, 3)  # blocks of each stage
    kernel_sizes: tuple[int, ...] = (21, 11, 3)  # depth-wise branches while training
    dropout: float = 0.2  # before the head
    n_mels: int = 56  # bands of the log-mel
    n_frames: int = 217  # frames of a window, 23.2 ms each: 5.016 s
    fold: str = "2"  # held out for validation
    min_clips: int = 20  # a label needs to be learnt
    min_groups: int = 8  # independent groups a label needs
    auxiliary_min_clips: int = 3  # of a label that has not enough, to be taught beside those that do; 0: none is
    steps: int = 5500  # optimiser steps
    batch_size: int = 64  # windows
    learning_rate: float = 6e-3  # peak, of AdamW; that of Muon follows it
    weight_decay: float = 0.05  # on weights of two or more dimensions
    warmup_steps: int = 300  # linear; a cosine falls to 0 after it
    mixup_probability: float = 0.4  # share of windows that get a second clip and its labels
    damage_probability: float = 0.4  # share of clips that went through a codec, a telephone, a room or another speed
    negatives: float = 0.08  # share of windows that hold only synthetic noise, tones or silence
    mask_frames: int = 20  # longest time mask, two of them
    mask_mels: int = 8  # widest mel mask, two of them
    label_smoothing: float = 0.01  # targets become smoothing / 2 and 1 - smoothing / 2
    teacher_weight: float = 0.7  # of the scores of a model that teaches; the labels have the rest
    ema_decay: float = 0.999  # of the averaged weights that are validated and kept
    validate_every: int = 250  # steps
    patience: int = 0  # validations without a better mAP before training stops; 0: never
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "n_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.n_frames < 2:
            raise ValueError(f"n_frames must be 2 or more, not {self.n_frames}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        for name in ("mixup_probability", "damage_probability", "negatives", "dropout", "label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be 0 or more and less than 1, not {getattr(self, name)}")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be 0 to 1, not {self.teacher_weight}")


_Record = TypeVar("_Record")

# Literals are checked by their record.
_WORDS_OF_KIND = {
    int: "a whole number", float: "a finite number", str: "text", tuple[int, ...]: "a list of whole numbers",
}  # fmt: skip


def record_from_dict(record: type[_Record], values: dict[str, Any], *, where: str) -> _Record:
    """Builds `record` from a JSON object.

    Raises:
        ValueError: a key is unknown or missing, or a value is of another type or not allowed; the message begins with
            `where`.
    """
    known = {f.name for f in fields(record)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}")
    kinds = get_type_hints(record)
    for name, value in values.items():
        if not _is_of(kinds[name], value):
            raise ValueError(f"{where}: {name} must be {_WORDS_OF_KIND[kinds[name]]}, not {value!r:.80}")
    try:
        return record(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _is_of(kind: Any, value: Any) -> bool:
    if kind is float:
        return type(value) in (int, float) and -math.inf < value < math.inf
    if kind == tuple[int, ...]:
        return isinstance(value, list | tuple) and all(type(each) is int for each in value)
    return kind not in _WORDS_OF_KIND or type(value) is kind
