"""From a training checkpoint, the authors' `.pyth` or our own, to a fused model folder. No weight is ever random."""

from audiotag.convert.layouts import convert, read_checkpoint, read_labels

__all__ = ["convert", "read_checkpoint", "read_labels"]
