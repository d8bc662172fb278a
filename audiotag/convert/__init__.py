"""From a training checkpoint, the authors' `.pyth` or our own, to a fused model folder. No weight is ever random.

    file --archive--> tensors, settings --ours | authors--> fused network, configuration --writing--> model folder

`reading` tells the two kinds of checkpoint apart. A checkpoint is looked through before torch opens it (`archive`), its
tensors are held to the network's shapes before anything of that size is made (`filling`), and the folder appears only
when all of it is written and verified (`writing`). What only the authors have is in `settings` (the text inside their
checkpoints) and `layouts` (their names of tensors, and the three forms of a file); `labels` names the outputs.
Neighbours: the authors' data sets are data in `published`, `export` writes and verifies the weights, `training` writes
our own checkpoints.
"""

from audiotag.convert.archive import load_archive
from audiotag.convert.labels import read_labels
from audiotag.convert.ours import CHECKPOINT_FORMAT
from audiotag.convert.reading import read_checkpoint
from audiotag.convert.writing import convert

__all__ = ["CHECKPOINT_FORMAT", "convert", "load_archive", "read_checkpoint", "read_labels"]
