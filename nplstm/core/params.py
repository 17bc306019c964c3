"""Parameters and gradients as named arrays.

An array in a ``Parameters`` is never changed in place: item assignment replaces it. So a state dict is a
snapshot without a copy, a tape keeps the weights of its own forward pass when the layer is trained further, and
the copies of weights that engines prepare never go out of date.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from nplstm._shapes import check_mapping, check_size
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, check_arrays
from nplstm.errors import ArgumentError, ShapeError

__all__ = ["JoinedParameters", "LSTMParams", "Parameters", "Sums", "as_generator", "host_integer"]


T = TypeVar("T")


class LSTMParams(NamedTuple):
    """The parameters of one layer in one direction, or their gradients.

    The axis of size K = 4H holds the gates in the order i, f, g, o; with coupled gates K = 3H, in the order
    i, g, o. P is the width of h: H, or ``proj_size``. R is the width of the recurrent input: P, or
    ``recurrent_size``. See ``CellSpec``.
    """

    weight_ih: Array  # (K, I)
    weight_hh: Array  # (K, R)
    bias_ih: Array | None = None  # (K,)
    bias_hh: Array | None = None  # (K,)
    weight_hr: Array | None = None  # (P, H)  projection
    weight_ch: Array | None = None  # (K - H,) or (K - H, H)  peepholes of i, f, o
    gain_ih: Array | None = None  # (K,)  layer norm of W_ih x
    gain_hh: Array | None = None  # (K,)  layer norm of W_hh r
    gain_c: Array | None = None  # (H,)  layer norm of the cell state
    bias_c: Array | None = None  # (H,)
    transform: Arrays | None = None  # parameters of the hidden transform, by its own names

    @classmethod
    def from_named(cls, arrays: Arrays, suffix: str = "") -> Self:
        """Take the arrays by their names in a state dict, each with ``suffix``; None where there is none."""
        found = {field: arrays.get(field + suffix) for field in cls._fields if field != "transform"}
        own = {
            name.removeprefix("transform_").removesuffix(suffix): array
            for name, array in arrays.items()
            if name.startswith("transform_") and name.endswith(suffix)
        }
        return cls(**found, transform=own or None)  # pyright: ignore[reportArgumentType]

    @classmethod
    def of_sum(cls, weight_ih: Array, weight_hh: Array, bias: Array | None) -> Self:
        """Return gradients, where ``bias`` is that of ``b_ih + b_hh``: each bias gets it, in its own array."""
        return cls(weight_ih, weight_hh, bias, None if bias is None else bias.copy())

    @property
    def bias(self) -> Array | None:
        """``b_ih + b_hh``, (K,); None without biases."""
        return None if self.bias_ih is None or self.bias_hh is None else self.bias_ih + self.bias_hh

    def named(self, suffix: str = "") -> dict[str, Array]:
        """Return the arrays that are not None, by their names in a state dict: ``weight_ih`` + ``suffix``, ..."""
        *arrays, transform = self
        named = {field + suffix: a for field, a in zip(self._fields, arrays, strict=False) if a is not None}
        for name, array in (transform or {}).items():
            named["transform_" + name + suffix] = array
        return named


class Sums:
    """Gradients by parameter name, summed over the steps of a backward pass."""

    def __init__(self) -> None:
        self._sums: dict[str, Array] = {}

    def add(self, name: str, share: Array) -> None:
        """Add one step's gradient. The array may become the sum itself, so the caller must not use it again."""
        if name in self._sums:
            self._sums[name] += share
        else:
            self._sums[name] = share

    def gradients(self, params: LSTMParams) -> LSTMParams:
        """Return the sums as ``LSTMParams``; zeros for parameters to which nothing was added."""
        named = params.named()
        return LSTMParams.from_named(
            {
                name: self._sums[name] if name in self._sums else backend_of(array).xp.zeros_like(array)
                for name, array in named.items()
            }
        )


class Parameters(MutableMapping[str, Array]):
    """Named arrays of fixed shapes, one element type and one backend, replaced by item assignment.

    On NumPy the arrays are read-only. CuPy has no read-only arrays: do not write to them there. An assigned array
    must have the shape, element type and backend of the old one, and is copied.

    Parameters
    ----------
    arrays : mapping of name to Array
    copy : bool
        False keeps the arrays without a copy: the caller must not write to them again.

    Raises
    ------
    ArgumentError
        On assignment to an unknown name, and on ``del``.
    ShapeError, DTypeError, BackendError
        If an assigned array has another shape, element type or backend than the old one.

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
        self._derived: dict[str, Any] = {}
        self.replace_all(arrays, copy=copy)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: Array) -> None:
        if name not in self._arrays:
            raise ArgumentError(f"parameter {name!r}: expected one of {list(self._arrays)}")
        old = self._arrays[name]
        check_arrays(f"the parameter {name!r}", backend_of(old), old.dtype, **{name: value})
        if value.shape != old.shape:
            raise ShapeError(f"{name}: expected shape {old.shape}, got {value.shape}")
        self._arrays[name] = _frozen_copy(value)
        self._derived = {}

    def __delitem__(self, name: str) -> None:
        raise ArgumentError(f"parameter {name!r}: parameters are replaced, never removed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def replace_all(self, arrays: Arrays, *, copy: bool = True) -> None:
        """Replace all arrays, also by ones with other names, shapes, element type or backend; nothing is checked.

        For layers themselves (``to``). An optimizer that holds this mapping sees the new arrays.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> parameters = nplstm.Parameters({"weight": np.zeros(3)})
        >>> parameters.replace_all({"bias": np.ones(2)})
        >>> parameters
        Parameters(
          bias: float64 (2,)
        )
        """
        if copy:
            self._arrays = {name: _frozen_copy(array) for name, array in arrays.items()}
        else:
            self._arrays = {name: backend_of(array).freeze(array) for name, array in arrays.items()}
        self._derived = {}

    def derived(self, key: str, make: Callable[[], T]) -> T:
        """Return ``make()``, cached under ``key`` until a parameter is replaced.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> parameters = nplstm.Parameters({"weight": np.ones(3)})
        >>> make = lambda: float(parameters["weight"].sum())
        >>> parameters.derived("sum", make)
        3.0
        >>> parameters["weight"] = np.zeros(3)
        >>> parameters.derived("sum", make)
        0.0
        """
        derived = self._derived  # another thread may replace the attribute
        if key not in derived:
            derived[key] = make()
        return derived[key]

    def grouped(self, suffixes: Sequence[str]) -> list[LSTMParams]:
        """Return those of several layers and directions, all as they are at one moment.

        Examples
        --------
        >>> import nplstm
        >>> (params,) = nplstm.LSTM(2, 3, rng=0).parameters.grouped(["_l0"])
        >>> params.weight_ih.shape
        (12, 2)
        """
        arrays = dict(self._arrays)  # another thread may replace them
        return [LSTMParams.from_named(arrays, suffix) for suffix in suffixes]

    def __repr__(self) -> str:
        return _listed("Parameters", self)

    def __reduce__(self) -> tuple[Any, ...]:
        # deepcopy and pickle hand out writable arrays: go through the constructor, which freezes them
        return Parameters, (dict(self._arrays),)


def _listed(owner: str, arrays: Arrays) -> str:
    """Write names, element types and shapes, a line each."""
    return "\n".join([f"{owner}(", *(f"  {name}: {a.dtype} {a.shape}" for name, a in arrays.items()), ")"])


def _frozen_copy(array: Array) -> Array:
    backend = backend_of(array)
    return backend.freeze(backend.xp.array(array, order="C", copy=True))


class JoinedParameters(MutableMapping[str, Array]):
    """Several mappings joined under prefixed names: the parameters, or the gradients, of a model made of parts.

    Parameters
    ----------
    **parts : mapping of name to Array
        Entry ``name`` of part ``lstm`` has the joined name ``"lstm.name"``. Assignment to it assigns to the part.

    Raises
    ------
    ArgumentError
        If a part is not a mapping, or its name has a dot.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm, head = nplstm.LSTM(2, 3, rng=0), nplstm.Linear(3, 1, rng=0)
    >>> joined = nplstm.JoinedParameters(lstm=lstm.parameters, head=head.parameters)
    >>> list(joined)[-2:]
    ['head.weight', 'head.bias']
    >>> joined["head.bias"] = np.ones(1, dtype=np.float32)
    >>> head.parameters["bias"]
    array([1.], dtype=float32)
    """

    def __init__(self, **parts: MutableMapping[str, Array]) -> None:
        for part, arrays in parts.items():
            check_mapping(part, arrays)
            if "." in part:
                raise ArgumentError(f"{part!r}: expected a part's name without a dot: joined names are part.name")
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

    def __repr__(self) -> str:
        return _listed("JoinedParameters", self)


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
