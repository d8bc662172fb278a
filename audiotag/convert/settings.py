"""The authors' settings: the YAML text that lies in their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from audiotag.config import Padding
from audiotag.errors import CheckpointError
from audiotag.published import AudioRecipe

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # the authors' RESNET.DEPTH
MAX_WIDTH = 1024  # the authors have 64; a larger one is a damaged file
MAX_CFG_CHARS = 2**24
MAX_ALIASES = 20  # of YAML; a list of ten lists of ten, nine times over, would grow to a billion


class Settings:
    """The YAML text `cfg` inside an authors' checkpoint; asks for what is needed, strictly.

    Raises:
        CheckpointError: the text cannot be read or, from each method, what is asked for is missing or no such value.
    """

    def __init__(self, text: Any, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        if text is None:
            return
        try:
            if not isinstance(text, str) or len(text) > MAX_CFG_CHARS:
                raise ValueError("it is no text of a reasonable length")
            if sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > MAX_ALIASES:
                raise ValueError(f"it has more than {MAX_ALIASES} aliases")
            self._values = yaml.safe_load(text) or {}
            if not isinstance(self._values, dict):
                raise ValueError("it is no mapping")
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise CheckpointError(f"{path}: its cfg is not readable: {error}. Fetch it again") from error

    def _number(self, group: str, key: str) -> float:
        value = self._get(group, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise CheckpointError(f"{self._path}: its cfg has {group}.{key} = {value!r}. Name --dataset")
        return value

    def _get(self, group: str, key: str) -> Any:
        if not self._has(group, key):
            raise CheckpointError(f"{self._path}: its cfg has no {group}.{key}. Name --dataset")
        return self._values[group][key]

    def _has(self, group: str, key: str) -> bool:
        return isinstance(self._values.get(group), dict) and key in self._values[group]

    @property
    def dataset(self) -> str | None:
        """The authors' name of the data set, in lower case."""
        return str(self._get("TRAIN", "DATASET")).lower() if self._has("TRAIN", "DATASET") else None

    def audio(self, padding: Padding) -> AudioRecipe:
        """How audio was cut and transformed; the padding rule is in the authors' code, by data set."""
        return AudioRecipe(
            sample_rate=round(self._number("AUDIO_DATA", "SAMPLING_RATE")),
            clip_seconds=self._number("AUDIO_DATA", "CLIP_SECS"),
            window_ms=self._number("AUDIO_DATA", "WINDOW_LENGTH"),
            hop_ms=self._number("AUDIO_DATA", "HOP_LENGTH"),
            n_frames=round(self._number("AUDIO_DATA", "NUM_FRAMES")),
            n_mels=round(self._number("AUDIO_DATA", "NUM_FREQUENCIES")),
            padding=padding,
        )

    def head_sizes(self, n_heads: int) -> list[int]:
        """Outputs of each head."""
        sizes = self._get("MODEL", "NUM_CLASSES")
        sizes = sizes if isinstance(sizes, list | tuple) else [sizes]
        if len(sizes) != n_heads or not all(isinstance(size, int) and 0 < size < 10**6 for size in sizes):
            raise CheckpointError(
                f"{self._path}: its cfg has MODEL.NUM_CLASSES = {sizes!r} where {n_heads} counts belong. Name --dataset"
            )
        return list(sizes)

    def n_views(self) -> int | None:
        """Views of the authors' evaluation."""
        return round(self._number("TEST", "NUM_ENSEMBLE_VIEWS")) if self._has("TEST", "NUM_ENSEMBLE_VIEWS") else None

    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        depth = self._get("RESNET", "DEPTH") if self._has("RESNET", "DEPTH") else 50
        if not isinstance(depth, int) or depth not in DEPTHS:
            raise CheckpointError(f"{self._path}: its cfg has RESNET.DEPTH = {depth!r}, not 50 or 101. Check the file")
        return DEPTHS[depth]

    def width(self) -> int:
        """Channels of the first stage."""
        width = self._get("RESNET", "WIDTH_PER_GROUP") if self._has("RESNET", "WIDTH_PER_GROUP") else 64
        if not isinstance(width, int) or not 0 < width <= MAX_WIDTH:
            what = f"its cfg has RESNET.WIDTH_PER_GROUP = {width!r}, not 1 to {MAX_WIDTH}"
            raise CheckpointError(f"{self._path}: {what}. Check the file")
        return width
