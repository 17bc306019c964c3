"""Parameters and gradients as named arrays, and how parameters start.

An array in a ``Parameters`` is never changed in place: it is replaced by item assignment. So a state dict is
a snapshot that costs nothing, a tape keeps the weights of its own forward pass however the layer is trained
on, and no packed copy of a weight can go stale.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple, Self

import numpy as np

from nplstm._shapes import check_mapping, check_size
from nplstm._typing import Array, Arrays, DType
from nplstm.backends import Backend, backend_of, check_arrays
from nplstm.errors import ArgumentError, ShapeError

__all__ = ["JoinedParameters", "LSTMParams", "Parameters", "as_generator", "host_integer", "uniform"]


class LSTMParams(NamedTuple):
    """The parameters of one layer in one direction, or their gradients.

    Gates stand in the order i, f, g, o along the axis of size 4H. P is the width of h: H, or ``proj_size``.
    """

    weight_ih: Array  # (4H, I)
    weight_hh: Array  # (4H, P)
    bias_ih: Array | None = None  # (4H,)
    bias_hh: Array | None = None  # (4H,)
    weight_hr: Array | None = None  # (P, H)  the projection, where there is one

    @classmethod
    def from_named(cls, arrays: Arrays, suffix: str = "") -> Self:
        """Look the arrays up by torch's names; None for those that are not there."""
        return cls(
            weight_ih=arrays["weight_ih" + suffix],
            weight_hh=arrays["weight_hh" + suffix],
            bias_ih=arrays.get("bias_ih" + suffix),
            bias_hh=arrays.get("bias_hh" + suffix),
            weight_hr=arrays.get("weight_hr" + suffix),
        )

    def named(self, suffix: str = "") -> dict[str, Array]:
        """Return the ones that there are, by torch's names: ``weight_ih`` + ``suffix``, ..."""
        return {field + suffix: array for field, array in self._asdict().items() if array is not None}


class Parameters(MutableMapping[str, Array]):
    """Named arrays of fixed shapes, one element type and one backend, replaced by item assignment.

    Reading gives arrays that refuse to be written to (NumPy; CuPy has no such arrays: there, do not). What is
    assigned is checked against what was there, and copied.

    Parameters
    ----------
    arrays : mapping of name to Array
    copy : bool
        False takes the arrays over: the caller must not write to them again.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> parameters = nplstm.LSTM(2, 3, rng=0).parameters
    >>> parameters["bias_ih_l0"] = np.zeros(12, dtype=np.float32)
    >>> parameters["bias_ih_l0"] += 1  # reads, adds, assigns: but the array refuses the addition in place
    Traceback (most recent call last):
    ...
    ValueError: output array is read-only
    >>> parameters["bias_ih_l0"] = parameters["bias_ih_l0"] + 1
    """

    def __init__(self, arrays: Arrays, *, copy: bool = True) -> None:
        self._arrays: dict[str, Array] = {}
        self.replace_all(arrays, copy=copy)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: Array) -> None:
        if name not in self._arrays:
            raise ArgumentError(f"parameter {name!r}: there is none of that name, only {list(self._arrays)}")
        old = self._arrays[name]
        check_arrays(f"the parameter {name!r}", backend_of(old), old.dtype, **{name: value})
        if value.shape != old.shape:
            raise ShapeError(f"{name}: expected shape {old.shape}, got {value.shape}")
        self._arrays[name] = _frozen(value, copy=True)

    def __delitem__(self, name: str) -> None:
        raise ArgumentError(f"parameter {name!r}: parameters are replaced, never removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def replace_all(self, arrays: Arrays, *, copy: bool = True) -> None:
        """Hold these arrays and no others: new names, shapes, element type and backend.

        For a layer's own use; whoever holds this mapping, an optimizer say, sees the new arrays.
        """
        self._arrays = {name: _frozen(array, copy=copy) for name, array in arrays.items()}

    def __repr__(self) -> str:
        lines = [f"  {name}: {a.dtype} {a.shape}" for name, a in self._arrays.items()]
        return "\n".join(["Parameters(", *lines, ")"])

    def __reduce__(self) -> tuple[Any, ...]:
        # deepcopy and pickle hand out writable arrays: go through the constructor, which freezes them
        return Parameters, (dict(self._arrays),)


def _frozen(array: Array, *, copy: bool) -> Array:
    backend = backend_of(array)
    return backend.freeze(backend.xp.array(array, order="C", copy=True) if copy else array)


class JoinedParameters(MutableMapping[str, Array]):
    """Several mappings seen as one, under prefixed names: the parameters of a model made of parts.

    Parameters
    ----------
    **parts : mapping of name to Array
        Entry ``name`` of part ``lstm`` is seen as ``"lstm.name"``. Assignment reaches the part.

    Examples
    --------
    >>> import nplstm
    >>> lstm, head = nplstm.LSTM(2, 3, rng=0), nplstm.Linear(3, 1, rng=0)
    >>> list(nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters))[-2:]
    ['head.weight', 'head.bias']
    """

    def __init__(self, **parts: MutableMapping[str, Array]) -> None:
        for part, arrays in parts.items():
            check_mapping(part, arrays)
            if "." in part:
                raise ArgumentError(f"{part!r}: a part's name has no dot, which ends it in the joined names")
        self._parts = parts

    def _find(self, name: str) -> tuple[MutableMapping[str, Array], str]:
        part, _, rest = name.partition(".")
        if part not in self._parts:
            raise KeyError(name)
        return self._parts[part], rest

    def __getitem__(self, name: str) -> Array:
        part, rest = self._find(name)
        return part[rest]

    def __setitem__(self, name: str, value: Array) -> None:
        part, rest = self._find(name)
        part[rest] = value

    def __delitem__(self, name: str) -> None:
        part, rest = self._find(name)
        del part[rest]

    def __iter__(self) -> Iterator[str]:
        return (f"{part}.{name}" for part, arrays in self._parts.items() for name in arrays)

    def __len__(self) -> int:
        return sum(len(arrays) for arrays in self._parts.values())


def host_integer(value: int) -> Array:
    """Return an integer as a 0-d int64 NumPy array, for state dicts."""
    return np.asarray(value, dtype=np.int64)


def as_generator(rng: Any) -> "np.random.Generator":
    """Return a NumPy generator from a seed, a generator (used as it is) or None (fresh entropy)."""
    if rng is None or isinstance(rng, np.random.Generator | np.random.BitGenerator | np.random.SeedSequence):
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(check_size("rng", rng, minimum=0))
    except ArgumentError as error:
        raise ArgumentError(f"rng: expected a seed >= 0, a numpy.random.Generator or None, got {rng!r}") from error


def uniform(
    shapes: Mapping[str, tuple[int, ...]],
    bound: float,
    *,
    backend: Backend,
    dtype: DType,
    rng: Any,
) -> dict[str, Array]:
    """Draw arrays from U(-bound, bound), in the order of ``shapes``.

    The numbers are drawn in float64 on the host and rounded, so that one seed gives the same parameters in
    every element type and on every backend.
    """
    generator = as_generator(rng)
    return {
        name: backend.asarray(generator.uniform(-bound, bound, shape).astype(dtype))
        for name, shape in shapes.items()
    }
