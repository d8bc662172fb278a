"""From inputs to results, on several threads.

    crew: inputs -> windows -> log-mels -> batches -> logits -> scores     (as many threads as cores)
    collector: scores -> pooled over a clip -> tags -> results in order    (the caller's thread)

Batches mix windows of different clips. The number of windows that wait and of clips that are open is bounded, so memory
follows the batch and the threads, never the length of a clip or the number of inputs. Scores are pooled in window
order, so that nothing depends on which batch a window travelled in.
"""

from audiotag.pipeline.crew import MAX_CLIPS_AHEAD
from audiotag.pipeline.items import Given
from audiotag.pipeline.pipeline import Pipeline

__all__ = ["MAX_CLIPS_AHEAD", "Given", "Pipeline"]
