"""From what a person calls a model to a model folder on this disk: nothing, a name, a folder, or an id on the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from audiotag.errors import ModelError
from audiotag.model_folder import ModelFolder, open_model_folder

DEFAULT = "default"  # the name of the embedded model


def resolve_model(
    model: str | os.PathLike[str] | None = None, *, update: bool = False, offline: bool = False
) -> ModelFolder:
    """The folder of a model: None is `$AUDIOTAG_MODEL` or the embedded default, text is a folder or a Hub id.

    Raises:
        ModelError: there is no such model.
    """
    wanted = os.fspath(model) if model is not None else os.environ.get("AUDIOTAG_MODEL") or DEFAULT
    if wanted == DEFAULT and not Path(wanted).is_dir():
        return open_model_folder(embedded_folder(), name=DEFAULT)
    if Path(wanted).is_dir():
        return open_model_folder(wanted)
    raise ModelError(f"model {wanted!r}: is neither a folder nor `{DEFAULT}`. Check --model")


def embedded_folder() -> Path:
    """Where the embedded default lies: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    places = (package / "_weights" / DEFAULT, package.parent / "weights" / DEFAULT)
    found = next((place for place in places if (place / "config.json").is_file()), None)
    if found is None:
        raise ModelError(f"the embedded model is missing from {places[0].parent}. Install audiotag-cli again")
    return found
