"""Argument structures of the kernels as NumPy types, field by field as in ``kernels/*.cu``.

Addresses are 64-bit integers. A kernel's argument is one element of such a type, sent along with the launch.
"""

from typing import Any

import numpy as np

from nplstm.engines.cuda.plan import MAX_DIRECTIONS

__all__ = ["BACKWARD", "BACKWARD_STEP", "FORWARD", "FORWARD_STEP", "STREAM_STEP", "made"]

_ADDRESS, _LONG, _INT, _WORD = np.uint64, np.int64, np.int32, np.uint32


def _structure(*fields: tuple[str, Any]) -> np.dtype[np.void]:
    return np.dtype([(name, kind) for names, kind in fields for name in names.split()], align=True)


FORWARD_STEP = _structure(
    ("product gates bias_ih bias_hh h c out cells", _ADDRESS),
    ("out_stride", _LONG),
    ("n H", _INT),
)

BACKWARD_STEP = _structure(
    ("grad_out grad_h grad_c gates cells before c_0 grad_a", _ADDRESS),
    ("grad_stride", _LONG),
    ("began n H", _INT),
)

STREAM_STEP = _structure(
    ("weight_ih weight_hh bias_ih bias_hh x h h_next c y", _ADDRESS),
    ("B I H", _INT),
)

_EXCHANGE = _structure(("numbers flags", _ADDRESS))

_SHAPE = _structure(
    ("bounds status", _ADDRESS),
    ("T first steps B H tiles blocks ring rows width", _INT),
    ("base patience", _WORD),
)

_FORWARD_DIRECTION = _structure(
    ("weight_hh weight_ih bias_ih bias_hh gates h c out cells", _ADDRESS),
    ("out_stride gates_from", _LONG),
    ("own leader", _EXCHANGE),
    ("follower", _ADDRESS),
    ("reverse has_product", _INT),
)

_BACKWARD_DIRECTION = _structure(
    ("weight_hh weight_ih grad_out gates cells c_0 grad_a grad_h grad_c", _ADDRESS),
    ("grad_stride grad_a_from", _LONG),
    ("own leader", _EXCHANGE),
    ("follower", _ADDRESS),
    ("reverse", _INT),
)

FORWARD = np.dtype([("shape", _SHAPE), ("direction", _FORWARD_DIRECTION, (MAX_DIRECTIONS,))], align=True)
BACKWARD = np.dtype([("shape", _SHAPE), ("direction", _BACKWARD_DIRECTION, (MAX_DIRECTIONS,))], align=True)


def made(kind: np.dtype[np.void], **values: Any) -> Any:
    """Return one element of a structure, shape (1,); fields that are not named are zero."""
    arguments = np.zeros(1, kind)
    for name, value in values.items():
        arguments[name] = value
    return arguments
