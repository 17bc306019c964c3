"""Sizes for what a model leaves open until it runs."""

from collections.abc import Hashable

__all__ = ["OpenSizes"]


class OpenSizes:
    """Chooses sizes for what a model leaves open: the same for the same name, and another for each name.

    Parameters
    ----------
    first, step, many : int
        The sizes are ``many`` from ``first`` on, ``step`` apart. Of two choosers that have no size in common, and
        not as many, two names that share a size in one do not in the other, unless there are very many.
    """

    def __init__(self, first: int, step: int, many: int) -> None:
        self._first, self._step, self._many = first, step, many
        self._chosen: dict[Hashable, int] = {}

    def __call__(self, name: Hashable) -> int:
        """Return the size that stands for a name."""
        # now and then two names share a size, so that no size is large
        return self._chosen.setdefault(name, self._first + self._step * (len(self._chosen) % self._many))
