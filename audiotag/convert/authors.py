"""The authors' checkpoints: settings, data set, labels and tensors, put together.

How audio was cut is what the settings say or, where `dataset` is named, the record in `published`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from audiotag.config import HeadConfig, ModelConfig, NetworkConfig
from audiotag.convert.filling import Converted, checked_tensors
from audiotag.convert.labels import label_names
from audiotag.convert.layouts import fuse_authors
from audiotag.convert.settings import Settings
from audiotag.errors import CheckpointError, UsageError
from audiotag.model_folder import check_sizes
from audiotag.published import DATASETS, PublishedDataset

AUTHORS_LICENSE = "CC-BY-NC-SA-4.0"  # of the authors' repository, which links their weights
AUTHORS_SOURCE = "https://github.com/StevenLauHKHK/AudioRepInceptionNeXt"

logger = logging.getLogger(__name__)


def convert_authors(
    saved: dict[str, Any], path: Path, dataset: str | None, labels: tuple[str, ...] | None, origin: dict[str, Any]
) -> Converted:
    """The fused network of a checkpoint of the authors; `origin` joins its provenance.

    Raises:
        CheckpointError: its settings lack something or contradict it, or a tensor does not fit.
        UsageError: `dataset` or `labels` do not fit it.
    """
    settings = Settings(saved.get("cfg"), path)
    published = _choose_dataset(settings, dataset, path)
    audio = published.audio if dataset is not None else settings.audio(published.audio.padding)
    sizes = [head.n_outputs for head in published.heads]
    if dataset is None:
        sizes = settings.head_sizes(len(sizes))
    heads = tuple(
        HeadConfig(name=head.name or "", size=size) for head, size in zip(published.heads, sizes, strict=True)
    )
    names = label_names(published, sizes, labels)
    network_config = NetworkConfig(n_labels=sum(sizes), width=settings.width(), depths=settings.depths())
    network, layout = fuse_authors(checked_tensors(saved["model_state"], path), network_config, heads, path)
    try:
        config = ModelConfig(
            network=network_config, frontend=audio.frontend, window=audio.window, labels=names, activation="softmax",
            heads=heads if len(heads) > 1 else (), license=AUTHORS_LICENSE,
            provenance={
                **origin, "source": AUTHORS_SOURCE, "license_of": "the authors' repository", "dataset": published.name,
                "views": settings.n_views() if dataset is None else published.n_views, "layout": layout,
                "epoch": saved.get("epoch"),
                "label_names": "given with --labels" if labels is not None else published.credit,
            },
        )  # fmt: skip
        check_sizes(config.network, config.window, config.frontend)
    except ValueError as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}. Name --dataset") from error
    return Converted(network, config)


def _choose_dataset(settings: Settings, name: str | None, path: Path) -> PublishedDataset:
    if name is not None and name not in DATASETS:
        raise UsageError(f"dataset {name!r}: is not one of {', '.join(DATASETS)}. Choose one of them")
    inside = settings.dataset
    found = next((each for each in DATASETS.values() if each.authors_name == inside), None)
    if name is None:
        if found is None:
            what = f"names the unknown data set {inside!r}" if inside else "does not name its data set"
            raise CheckpointError(f"{path}: {what}. Name one with --dataset: {', '.join(DATASETS)}")
        return found
    if inside is not None and found is not DATASETS[name]:
        logger.warning("the checkpoint says that it is of %s; --dataset %s overrides it", inside, name)
    return DATASETS[name]
