"""Our own checkpoints: what `audiotag train` saves, which describes its model itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from audiotag.convert.filling import Converted, checked_tensors, empty_network, fill_network
from audiotag.convert.labels import check_label_count
from audiotag.errors import CheckpointError
from audiotag.model_folder import CONFIG_ERRORS, model_config_from_json
from audiotag.network import fuse

CHECKPOINT_FORMAT = "audiotag-checkpoint"


def convert_ours(
    saved: dict[str, Any], path: Path, labels: tuple[str, ...] | None, origin: dict[str, Any]
) -> Converted:
    """The fused network of a checkpoint of `audiotag train`; `origin` joins its provenance.

    Raises:
        CheckpointError: it does not describe its model, or a tensor does not fit.
        UsageError: `labels` do not fit it.
    """
    try:
        described = saved["model"]
        config = model_config_from_json(described["config"], described["preprocessor"], where=path)
        tensors = saved["network"]
    except CONFIG_ERRORS as error:
        raise CheckpointError(f"{path}: does not describe its model: {error}. Train again") from error
    if labels is not None:
        check_label_count(labels, config.network.n_labels)
        config = replace(config, labels=labels)
    network = empty_network(config.network)
    fill_network(network, checked_tensors(tensors, path), {name: name for name in network.state_dict()}, path)
    provenance = {**config.provenance, **origin, "step": saved.get("step"), "recipe": saved.get("recipe")}
    return Converted(fuse(network).float(), replace(config, provenance=provenance))
