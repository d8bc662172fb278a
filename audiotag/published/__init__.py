"""The six data sets that the authors of the network trained on, as data: what a published checkpoint expects.

Their traps are values here, not branches elsewhere: a window is one sample shorter than the clip length that views are
spread for, a short clip repeats its last log-mel frame (UrbanSound8K: its last sample), UrbanSound8K has 35 outputs for
10 labels, EPIC-Kitchens has two heads. `convert` combines a record with a checkpoint.

The label lists are facts about public data sets; `PublishedDataset.credit` names their makers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from audiotag.config import FrontEndConfig, Padding, WindowConfig

N_FFT = 2048  # samples; the same for all six
LABELS_FOLDER = Path(__file__).parent / "labels"


@dataclass(frozen=True, kw_only=True)
class AudioRecipe:
    """How the authors cut and transform audio, in the words of their configuration."""

    sample_rate: int  # Hz
    clip_seconds: float  # what views are spread for
    window_ms: float  # of the STFT
    hop_ms: float  # of the STFT
    n_frames: int
    n_mels: int = 128
    padding: Padding = "last_frame"

    @property
    def frontend(self) -> FrontEndConfig:
        """The front-end of this recipe."""
        return FrontEndConfig(
            sample_rate=self.sample_rate,
            n_fft=N_FFT,
            win_length=round(self.window_ms * self.sample_rate / 1000),
            hop_length=round(self.hop_ms * self.sample_rate / 1000),
            n_mels=self.n_mels,
            fmin=0.0,
            fmax=self.sample_rate / 2,
        )

    @property
    def window(self) -> WindowConfig:
        """The window of this recipe: the authors' slice leaves out the clip's last sample."""
        clip_length = round(self.sample_rate * self.clip_seconds)
        return WindowConfig(
            n_samples=clip_length - 1, n_frames=self.n_frames, padding=self.padding, view_length=clip_length
        )


@dataclass(frozen=True, kw_only=True)
class PublishedHead:
    """Outputs of a published network; `name` is None for the only head."""

    n_outputs: int
    labels: str  # file in labels/
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedDataset:
    """A data set of the authors' evaluation."""

    name: str  # what --dataset takes
    authors_name: str  # TRAIN.DATASET in the configuration inside a checkpoint
    audio: AudioRecipe
    heads: tuple[PublishedHead, ...]
    n_views: int  # the authors' evaluation; --max-windows
    credit: str  # whose label names these are


DATASETS: dict[str, PublishedDataset] = {
    dataset.name: dataset
    for dataset in (
        PublishedDataset(
            name="vggsound",
            authors_name="vggsound",
            audio=AudioRecipe(sample_rate=16000, clip_seconds=5.119, window_ms=20, hop_ms=10, n_frames=512),
            heads=(PublishedHead(n_outputs=309, labels="vggsound.csv"),),
            n_views=2,
            credit="VGG-Sound: Chen, Xie, Vedaldi, Zisserman, ICASSP 2020 (https://www.robots.ox.ac.uk/~vgg/data/vggsound/)",
        ),
        PublishedDataset(
            name="epic-sounds",
            authors_name="epicsound",
            audio=AudioRecipe(sample_rate=24000, clip_seconds=2.08, window_ms=10, hop_ms=5, n_frames=416),
            heads=(PublishedHead(n_outputs=44, labels="epic-sounds.csv"),),
            n_views=5,
            credit="EPIC-Sounds: Huh, Chalk, Kazakos, Damen, Zisserman, ICASSP 2023 (https://epic-kitchens.github.io)",
        ),
        PublishedDataset(
            name="epic-kitchens",
            authors_name="epickitchens",
            audio=AudioRecipe(sample_rate=24000, clip_seconds=2.08, window_ms=10, hop_ms=5, n_frames=416),
            heads=(
                PublishedHead(n_outputs=97, labels="epic-kitchens.verb.csv", name="verb"),
                PublishedHead(n_outputs=300, labels="epic-kitchens.noun.csv", name="noun"),
            ),
            n_views=10,
            credit="EPIC-Kitchens-100: Damen et al., IJCV 2022 (https://epic-kitchens.github.io); the most frequent "
            "narrated word of each class, not its official key",
        ),
        PublishedDataset(
            name="speech-commands-v2",
            authors_name="speechcommandv2",
            audio=AudioRecipe(sample_rate=16000, clip_seconds=1.023, window_ms=5, hop_ms=2, n_frames=512),
            heads=(PublishedHead(n_outputs=35, labels="speech-commands-v2.csv"),),
            n_views=1,
            credit="Speech Commands V2: Warden, 2018 (https://arxiv.org/abs/1804.03209)",
        ),
        PublishedDataset(
            name="urbansound8k",
            authors_name="urbansound8k",
            audio=AudioRecipe(
                sample_rate=16000, clip_seconds=4.16, window_ms=20, hop_ms=10, n_frames=416, padding="last_sample"
            ),
            heads=(PublishedHead(n_outputs=35, labels="urbansound8k.csv"),),
            n_views=2,
            credit="UrbanSound8K: Salamon, Jacoby, Bello, ACM MM 2014 (https://urbansounddataset.weebly.com)",
        ),
        PublishedDataset(
            name="nsynth",
            authors_name="nsynth",
            audio=AudioRecipe(sample_rate=16000, clip_seconds=4.16, window_ms=20, hop_ms=10, n_frames=416),
            heads=(PublishedHead(n_outputs=11, labels="nsynth.csv"),),
            n_views=1,
            credit="NSynth: Engel et al., ICML 2017 (https://magenta.tensorflow.org/datasets/nsynth)",
        ),
    )
}


def known_labels(head: PublishedHead) -> dict[int, str]:
    """Names of a head's outputs by position, as far as they are known."""
    with (LABELS_FOLDER / head.labels).open(encoding="utf-8", newline="") as lines:
        return {int(row["index"]): row["name"] for row in csv.DictReader(lines)}
