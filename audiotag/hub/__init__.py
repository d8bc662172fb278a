"""From what a person calls a model to a model folder on this disk: nothing, a name, a folder, or an id on the Hub.

    resolving --> cache, what is here already --> pulling, what is not --> asking --> the Hub

Local first: what the Hub's cache holds is found with the standard library alone, without one request;
`huggingface_hub` is imported only where the network is needed. It keeps the cache, this room decides what is asked for
(`files`), checks what arrives (`checksums`), makes the ONNX file that a repository lacks (`exporting`), and says in one
line what went wrong (`failures`). Below them all lie `names` and `places`. Neighbours: `model_folder` opens what is
here, `export` writes ONNX.
"""

from audiotag.hub.cache import cached_models, names_of, remove_cached
from audiotag.hub.checksums import files_recorded, is_intact
from audiotag.hub.files import DOWNLOADED
from audiotag.hub.names import DEFAULT, HubId, parse_hub_id
from audiotag.hub.places import audiotag_cache, hub_cache
from audiotag.hub.pulling import pull
from audiotag.hub.resolving import embedded_folder, resolve_model

__all__ = [
    "DEFAULT",
    "DOWNLOADED",
    "HubId",
    "audiotag_cache",
    "cached_models",
    "embedded_folder",
    "files_recorded",
    "hub_cache",
    "is_intact",
    "names_of",
    "parse_hub_id",
    "pull",
    "remove_cached",
    "resolve_model",
]
