"""Which labels stand above which, as the labelled clips themselves tell it."""

from __future__ import annotations

from collections.abc import Iterable


def ancestors_of_labels(label_sets: Iterable[Iterable[str]]) -> dict[str, frozenset[str]]:
    """The ancestors of each label: those that every clip with it has too. Takes the labels of each clip.

    >>> ancestors_of_labels([("Bark", "Dog"), ("Dog",)])["Bark"]
    frozenset({'Dog'})
    """
    common: dict[str, frozenset[str]] = {}
    for labels in map(frozenset, label_sets):
        for label in labels:
            common[label] = common.get(label, labels) & labels
    # Two labels that always come together are each other's synonym, not each other's ancestor.
    return {
        label: frozenset(other for other in others if other != label and label not in common[other])
        for label, others in common.items()
    }
