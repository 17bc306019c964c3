"""Allowed precision of the products of float32 layers on a GPU."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from nplstm._shapes import check_choice

__all__ = ["PRECISIONS", "allowed_precision", "use_precision"]

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


@cache
def _from_environment() -> str:
    precision = os.environ.get("NPLSTM_PRECISION", "").strip() or "float32"
    check_choice("NPLSTM_PRECISION", precision, PRECISIONS)
    return precision


_allowed: ContextVar[str] = ContextVar("precision", default="")


@contextmanager
def use_precision(precision: str) -> Generator[None]:
    """Allow calls within the context to round what they multiply, in layers of float32.

    A permission, as ``torch.set_float32_matmul_precision`` is: an engine may be more exact. The engines
    for NumPy and the plain one always are; ``lstm.engine_for()`` says which precision a call uses. Sums, gates and
    c are float32 in each of them. A recording goes back in the precision in which it was made. By default it is
    float32, or what the environment variable NPLSTM_PRECISION says. Layers of float16 and float64 are not
    concerned.

    Parameters
    ----------
    precision : {"float32", "tf32", "float16", "bfloat16"}
        What h, W_hh and the gradients of the gates are rounded to ahead of the recurrent product, with 24, 11, 11
        and 8 bits: float32 is exact; tf32 has float32's range; float16 and bfloat16 take half the memory between
        the blocks of a GPU and on its chip. With float16 the way back takes tf32: gradients may be smaller than
        float16 has numbers for. The products that are not part of the recurrence are taken in TF32 in all but
        float32.

    Raises
    ------
    ArgumentError
        For another name.

    Examples
    --------
    >>> import nplstm
    >>> lstm = nplstm.LSTM(2, 3, rng=0)
    >>> with nplstm.use_precision("tf32"):
    ...     lstm.engine_for().name in ("compiled", "numpy")  # on NumPy, and exact
    True
    """
    check_choice("precision", precision, PRECISIONS)
    token = _allowed.set(precision)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed_precision() -> str:
    """Return the precision that products may be rounded to here."""
    return _allowed.get() or _from_environment()
