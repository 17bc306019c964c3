"""A ``CellSpec`` in a layer: what it means for the layer's parameters."""

from typing import Any

from nplstm.core.cell_spec import CellSpec
from nplstm.errors import ArgumentError

__all__ = ["check_spec", "gate_misfit"]


def check_spec(cell: Any, *, bias: bool) -> CellSpec:
    """Return the spec of a layer, the standard one for None; raise where it has no meaning there."""
    spec = CellSpec() if cell is None else cell
    if not isinstance(spec, CellSpec):
        raise ArgumentError(f"cell: expected a CellSpec, got {cell!r}")
    if spec.forget_bias is not None and not bias:
        raise ArgumentError(f"forget_bias={spec.forget_bias} sets a bias, and bias=False has none")
    return spec


def gate_misfit(spec: CellSpec, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str | None:
    """Say so where a parameter's shape has rows for a forget gate that the cell has not; else None."""
    by_gate = ("weight_ih", "weight_hh", "weight_ch", "bias_ih", "bias_hh", "gain_ih", "gain_hh")
    gates = 2 if name.startswith("weight_ch") else 3
    if not spec.coupled_input_forget or not name.startswith(by_gate):
        return None
    if not got or got[0] * gates != expected[0] * (gates + 1):
        return None
    return (
        f"{got} has rows for a forget gate, and with coupled_input_forget=True there is none "
        f"(f = 1 - i): expected {expected}, without the second block"
    )
