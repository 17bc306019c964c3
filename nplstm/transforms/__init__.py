"""Ready-made hidden transforms, which make the recurrent input in the time loop, and their dicts for JSON."""

from collections.abc import Mapping
from typing import Any, cast

from nplstm.core.hidden_transform import HiddenTransform, TransformGradients
from nplstm.errors import ArgumentError
from nplstm.transforms.attention import AttentionReadout
from nplstm.transforms.concatenation import ContextConcatenation
from nplstm.transforms.projection import Projection

__all__ = [
    "AttentionReadout",
    "ContextConcatenation",
    "HiddenTransform",
    "Projection",
    "TransformGradients",
    "transform_from_dict",
    "transform_to_dict",
]

_WRITTEN: dict[str, tuple[type[HiddenTransform], str]] = {
    "Projection": (Projection, "size"),
    "ContextConcatenation": (ContextConcatenation, "size"),
    "AttentionReadout": (AttentionReadout, "scale"),
}
"""The transforms that can be saved to a file, each with its one option."""


def transform_to_dict(transform: Any) -> dict[str, Any]:
    """Return a ready-made transform as a dict for JSON; raise ArgumentError for a user's own."""
    for name, (kind, option) in _WRITTEN.items():
        if type(transform) is kind:
            return {"kind": name, option: getattr(transform, option)}
    raise ArgumentError(
        f"hidden_transform: expected one of {', '.join(_WRITTEN)}, got {type(transform).__name__}, which "
        f"cannot be saved to a file; save state_dict() and build the layer in your program"
    )


def transform_from_dict(written: Any) -> HiddenTransform:
    """Make a transform from the result of ``transform_to_dict``."""
    members = dict(cast("Mapping[str, Any]", written)) if isinstance(written, Mapping) else {}
    name = members.pop("kind", None)
    if not isinstance(name, str) or name not in _WRITTEN or list(members) != [_WRITTEN[name][1]]:
        raise ArgumentError(f"hidden_transform: expected one of {', '.join(_WRITTEN)}, got {written!r}")
    return _WRITTEN[name][0](**members)
