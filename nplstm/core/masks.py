"""Masks of dropout and zoneout for one pass through one layer in one direction, and how they are drawn."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nplstm._typing import Array, DType
from nplstm.backends import Backend
from nplstm.core.cell_spec import CellSpec
from nplstm.core.ops.dropout import dropout_mask
from nplstm.core.packed import PackedSteps
from nplstm.core.params import LSTMParams
from nplstm.errors import ArgumentError

__all__ = ["NO_MASKS", "Masks", "draw_masks", "inference_masks", "needed_generator"]


class Masks(NamedTuple):
    """Masks of dropout and zoneout; None where there are none. In inference zoneout has its probability."""

    input: Array | None = None  # (B, I)
    recurrent: Array | None = None  # (B, R), or (N, R) where it is drawn at each step
    recurrent_by_step: bool = False
    weight: Array | None = None  # (4H, R)
    keep_h: Array | float | None = None  # (N, P)
    keep_c: Array | float | None = None  # (N, H)

    def recurrent_rows(self, rows: slice) -> Array:
        """Return the mask of recurrent dropout for the rows of one step."""
        assert self.recurrent is not None
        return self.recurrent[rows] if self.recurrent_by_step else self.recurrent[: rows.stop - rows.start]

    @property
    def by_row(self) -> bool:
        """Whether there is a mask that differs from step to step."""
        return self.recurrent_by_step or not all(isinstance(k, float | None) for k in (self.keep_h, self.keep_c))

    def of_rows(self, rows: slice) -> "Masks":
        """Return the masks of some steps."""
        recurrent = self.recurrent
        if recurrent is not None and self.recurrent_by_step:
            recurrent = recurrent[rows]
        kept = [None if keep is None else self.rows(keep, rows) for keep in (self.keep_h, self.keep_c)]
        return self._replace(recurrent=recurrent, keep_h=kept[0], keep_c=kept[1])

    def rows(self, keep: Array | float, rows: slice) -> Array | float:
        """Return zoneout's mask for the rows of one step, or its probability."""
        return keep if isinstance(keep, float | int) else keep[rows]


NO_MASKS = Masks()


def needed_generator(draws: Mapping[str, float], rng: Any) -> Any:
    """Return ``rng`` if options draw masks (``draws``: their probabilities), else None; raise if it is missing."""
    if not draws:
        return None
    if rng is None:
        options = ", ".join(f"{name}={value}" for name, value in draws.items())
        raise ArgumentError(
            f"rng: {options} draws masks: pass a generator, rng=numpy.random.default_rng(seed), or training=False"
        )
    return rng


def inference_masks(spec: CellSpec) -> Masks:
    """Return the masks of inference: no dropout, and zoneout by its probability."""
    return Masks(keep_h=spec.zoneout_h or None, keep_c=spec.zoneout_c or None)


def draw_masks(
    spec: CellSpec,
    rng: Any,
    params: LSTMParams,
    steps: PackedSteps,
    hidden_size: int,
    *,
    backend: Backend,
    dtype: DType,
) -> Masks:
    """Draw the masks of a spec, in the order of its options."""
    R, P = params.weight_hh.shape[1], hidden_size if params.weight_hr is None else params.weight_hr.shape[0]
    B, N = steps.batch, steps.total

    def dropout(shape: tuple[int, ...], p: float) -> Array | None:
        return dropout_mask(backend, rng, shape, dtype, p) if p > 0 else None

    def zoneout(shape: tuple[int, ...], z: float) -> Array | None:
        return (backend.random(rng, shape, dtype) < z).astype(dtype) if z > 0 else None

    by_step = spec.recurrent_dropout_mask == "step"
    return Masks(
        input=dropout((B, params.weight_ih.shape[1]), spec.input_dropout),
        recurrent=dropout((N if by_step else B, R), spec.recurrent_dropout),
        recurrent_by_step=by_step,
        weight=dropout(params.weight_hh.shape, spec.weight_dropout),
        keep_h=zoneout((N, P), spec.zoneout_h),
        keep_c=zoneout((N, hidden_size), spec.zoneout_c),
    )
