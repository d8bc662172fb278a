"""From the log-mels of a batch to its scores; what does not fit into memory is computed in halves."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from audiotag.config import ModelConfig
from audiotag.engines import Engine, FloatArray
from audiotag.errors import EngineError
from audiotag.scores import ScoreArray, to_scores

logger = logging.getLogger(__name__)


class Scorer:
    """An engine with a batch size that fits: it is halved on out-of-memory, from then on."""

    def __init__(self, engine: Engine, config: ModelConfig, batch_size: int) -> None:
        self._engine = engine
        self._config = config
        self.batch_size = batch_size

    def __call__(self, log_mels: Sequence[FloatArray]) -> ScoreArray:
        """Scores of windows.

        Shape: n times `[1, frame, mel]` -> `[n, class]`.

        Raises:
            EngineError: the engine failed or gave no numbers, or not even one window fits into memory.
        """
        try:
            scores = to_scores(self._engine(np.stack(log_mels)), self._config)
            if np.isnan(scores).any():  # no threshold lets them through: every clip would be empty
                way = "Try --precision fp32, or fetch or make the model again"
                raise EngineError(f"engine {self._engine.name}: gives scores that are no numbers. {way}")
            return scores
        except MemoryError as error:
            if len(log_mels) == 1:
                what = f"engine {self._engine.name}: not even one window fits into memory: {error}"
                raise EngineError(f"{what}. Free memory, or use another --device") from error
        half = (len(log_mels) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        logger.info("out of memory: the batch is now %d windows", self.batch_size)
        return np.concatenate([self(log_mels[:half]), self(log_mels[half:])])
