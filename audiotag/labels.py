"""The ordered names that a model can give, and how people find them.

The network knows a label by its position only; whatever a person types becomes one here.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from audiotag.errors import UsageError


@dataclass(frozen=True)
class LabelSet:
    """Ordered, unique label names; index `i` is the network's output `i`.

    Raises:
        ValueError: a name is empty or stands twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if any(not name for name in self.names):
            raise ValueError(f"label {self.names.index('')} has an empty name")
        if len(set(self.names)) != len(self.names):
            [(twice, _)] = Counter(self.names).most_common(1)
            raise ValueError(f"label {twice!r} stands more than once")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _index_of_folded(self) -> dict[str, int]:
        return {name.casefold(): index for index, name in enumerate(self.names)}

    def position(self, name: str) -> int | None:
        """Where a whole name stands: as it is written, else upper and lower case alike; None if it is no label."""
        return self._index_of.get(name, self._index_of_folded.get(name.casefold()))

    def find(self, pattern: str) -> tuple[int, ...]:
        """Positions of the labels that `pattern` names: a whole name or a shell glob, upper and lower case alike.

        Raises:
            UsageError: nothing matches; the message suggests the nearest names.
        """
        exact = self.position(pattern)
        if exact is not None:
            return (exact,)
        matched = tuple(
            index for index, name in enumerate(self.names) if fnmatch.fnmatchcase(name.casefold(), pattern.casefold())
        )
        if not matched:
            raise UsageError(f"label {pattern!r}: {self.suggest(pattern)}")
        return matched

    def select(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> tuple[int, ...]:
        """Positions left after keeping `include` (all where empty) and dropping `exclude`, in network order.

        Raises:
            UsageError: a pattern matches no label; the message suggests the nearest names.
        """
        kept = {index for pattern in include for index in self.find(pattern)} or set(range(len(self)))
        dropped = {index for pattern in exclude for index in self.find(pattern)}
        return tuple(sorted(kept - dropped))

    def fill(self, named: Mapping[str, float], others: Sequence[float]) -> tuple[float, ...]:
        """A value for each label, in network order: from `named` by its name, else from `others` by its position.

        Raises:
            UsageError: a name is not among the labels (globs are not meant); the message suggests the nearest.
        """
        values = list(others)
        for name, value in named.items():
            position = self.position(name)
            if position is None:
                raise UsageError(f"label {name!r}: {self.suggest(name)}")
            values[position] = value
        return tuple(values)

    def search(self, text: str) -> tuple[int, ...]:
        """Positions of the labels whose name contains `text`, upper and lower case alike."""
        return tuple(index for index, name in enumerate(self.names) if text.casefold() in name.casefold())

    def nearest(self, pattern: str) -> tuple[str, ...]:
        """The names that are most like `pattern`, three at most."""
        near = difflib.get_close_matches(pattern.casefold(), self._index_of_folded, n=3, cutoff=0.5)
        return tuple(self[self._index_of_folded[name]] for name in near) or tuple(
            self[index] for index in self.search(pattern)[:3]
        )

    def suggest(self, pattern: str) -> str:
        """What to say to a person whose `pattern` is none of the labels: the nearest names, or where all are listed."""
        near = self.nearest(pattern)
        if not near:
            return "the model does not know it. `audiotag labels` lists what it knows"
        return "the model does not know it. Did you mean " + ", ".join(map(repr, near)) + "?"
