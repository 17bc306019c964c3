"""Parameters of one layer in one direction, with a cache of the forms that engines prepare from them."""

from collections.abc import Callable
from typing import Any, TypeVar

from nplstm.core.cell_spec import CellSpec
from nplstm.core.params import LSTMParams

__all__ = ["LayerWeights"]

T = TypeVar("T")


class LayerWeights:
    """Parameters and the options of their cell. Immutable: a layer whose parameters change makes a new object.

    Parameters
    ----------
    params : LSTMParams
    spec : CellSpec

    Attributes
    ----------
    widths : (P, H)
        The widths of h and c.
    composed : bool
        Whether the cell's own equations differ from the standard ones.
    bias : Array or None
        ``b_ih + b_hh``.
    size : int
        Numbers in W_ih and W_hh: multiplications that one step of one sequence takes.
    """

    __slots__ = ("_prepared", "bias", "composed", "params", "size", "spec", "widths")

    def __init__(self, params: LSTMParams, spec: CellSpec) -> None:
        self.params = params
        self.spec = spec
        H, weight_hr = params.weight_hh.shape[0] // spec.gates, params.weight_hr
        self.widths: tuple[int, int] = (H if weight_hr is None else weight_hr.shape[0]), H
        self.composed = spec.composes_cell
        self.bias = params.bias
        self.size = params.weight_ih.size + params.weight_hh.size
        self._prepared: dict[tuple[Any, ...], tuple[tuple[LayerWeights, ...], Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return LayerWeights, (self.params, self.spec)  # without what engines made of it

    def prepared(self, make: Callable[..., T], *beside: "LayerWeights") -> T:
        """Return ``make(self, *beside)``, an engine's own form of these weights; made once and cached."""
        key = (make, *map(id, beside))
        if key not in self._prepared:  # keeping ``beside`` alive keeps the ids in the key unique
            self._prepared[key] = (beside, make(self, *beside))
        return self._prepared[key][1]
