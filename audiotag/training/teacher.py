"""What one training teaches the next.

A label of a clip may be silent in the window that is cut from it, or drowned in what is mixed in, and what else can be
heard there may have no label. A network that was trained on the same clips hears that: its scores of the very window
that is learnt from join the targets (Hinton, Vinyals, Dean: "Distilling the knowledge in a neural network", 2015;
Furlanello et al.: "Born-again neural networks", ICML 2018; of the same view: Beyer et al.: "Knowledge distillation: a
good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from audiotag.config import ModelConfig, TrainConfig
from audiotag.errors import DataError
from audiotag.model_folder import open_model_folder, sha256_of
from audiotag.training.auxiliary import join_outputs
from audiotag.training.checkpoint import fused_network, load_checkpoint
from audiotag.training.places import kept_checkpoint

# What decides which clips have been learnt from, and which outputs there are.
_SHARED = ("fold", "min_clips", "min_groups", "auxiliary_min_clips")


class Teacher:
    """The averaged weights of a finished training, all its outputs among them, before any calibration."""

    def __init__(self, source: Path, model: ModelConfig, config: TrainConfig) -> None:
        """`source` is a model folder of `train` or `refit`, with its checkpoints beside it.

        Raises:
            ModelError: it is not a model folder.
            CheckpointError: there is no checkpoint beside it, or another version of audiotag made it.
            DataError: it hears or names something else than `model`, or was not trained as `config` says.
        """
        own = open_model_folder(source).config
        path = kept_checkpoint(source)
        saved = load_checkpoint(path)
        if own.to_preprocessor_dict() != model.to_preprocessor_dict():
            raise DataError(f"{source}: hears other log-mels or windows than the network to train. Make them alike, or "
                            "train without --teacher")  # fmt: skip
        for name in _SHARED:
            value = saved["recipe"][name]
            if value != getattr(config, name):
                raise DataError(f"{source}: was trained with {name} {value!r}. Train both alike, or without --teacher")
        weights = join_outputs(saved["network"], saved["auxiliary"])
        self.network = fused_network(weights, replace(own.network, n_labels=len(weights["head.bias"])))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._source, self._clips, self._weight = source, saved["clips"], config.teacher_weight
        self.identity = {"name": source.name, "sha256": sha256_of(path)}

    def check_clips(self, digest: str) -> None:
        """Raises `DataError` unless the teacher was trained on the clips that have this digest, fold by fold."""
        if self._clips != digest:
            raise DataError(f"{self._source}: was trained on other clips, or on clips with other labels, folds or "
                            "groups. Train it on the same data first")  # fmt: skip

    @torch.no_grad()
    def join(self, log_mels: Tensor, targets: Tensor) -> Tensor:
        """Labels and the teacher's scores, by its weight; its scores alone where a label is not known.

        Shape: `[batch, 1, frame, mel]`, `[batch, class]` with NaN where not known -> `[batch, class]`.
        """
        scores = torch.sigmoid(self.network(log_mels))
        return torch.where(targets.isnan(), scores, targets.lerp(scores, self._weight))
