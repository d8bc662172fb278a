"""Parts of a run for several machines, or for the tasks of a job array."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from audiotag.inputs.found import Found

_AnyFound = TypeVar("_AnyFound", bound=Found)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of any set of inputs, for job arrays: `Shard(2, 8)` is written `2/8`.

    A path's own bytes say where it belongs, so that neither the other inputs nor their order nor the machine matter.
    """

    number: int  # 1 to count
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"a shard's number goes from 1 to {self.count}, not {self.number}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def __contains__(self, path: str) -> bool:
        digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """The shard that `I/N` stands for.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)

    Raises:
        ValueError: it is not of this form, or I is not 1 to N.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is not a shard; write I/N, such as 2/8")
    return Shard(int(match[1]), int(match[2]))


def in_shard(found: Iterable[_AnyFound], shard: Shard | None) -> Iterator[_AnyFound]:
    """What of `found` belongs to a shard; everything where there is none."""
    return (item for item in found if shard is None or item.path in shard)
