"""Base class of layers: parameters, state dict, moving between backends and element types."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, Self, cast

from nplstm._typing import Array, DType, DTypeLike
from nplstm.backends import Backend, backend_of, check_dtype, get_backend, is_dtype, transfer
from nplstm.core.initialisers import ParameterSpec, draw_parameters
from nplstm.core.params import Parameters
from nplstm.errors import BackendError, NplstmError, StateDictError

__all__ = ["IncompatibleKeys", "Module", "load_arrays"]


class IncompatibleKeys(NamedTuple):
    """Names that ``load_state_dict`` did not find in the state dict, and names in it that no parameter has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Base class of layers: named parameters of one element type on one backend."""

    def __init__(self, *, backend: str, dtype: DTypeLike) -> None:
        self._backend = get_backend(backend)
        self._dtype = check_dtype(dtype, self._backend)
        self._parameters = Parameters({})

    @property
    def parameters(self) -> Parameters:
        """The parameters by torch's names; replace one with ``layer.parameters[name] = array``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> lstm = nplstm.LSTM(2, 3, rng=0)
        >>> list(lstm.parameters)
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
        >>> lstm.parameters["bias_hh_l0"] = np.zeros(12, dtype=np.float32)
        """
        return self._parameters

    @property
    def backend(self) -> str:
        """Name of the backend of the parameters: "numpy" or "cupy".

        Examples
        --------
        >>> import nplstm
        >>> nplstm.LSTM(2, 3).backend
        'numpy'
        """
        return self._backend.name

    @property
    def dtype(self) -> DType:
        """Element type of parameters, inputs and outputs.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.LSTM(2, 3).dtype
        dtype('float32')
        """
        return self._dtype

    def _draw_parameters(self, starts: dict[str, ParameterSpec], rng: Any) -> None:
        """Replace all parameters by draws, in the order of ``starts``."""
        arrays = draw_parameters(starts, backend=self._backend, dtype=self._dtype, rng=rng)
        self._parameters.replace_all(arrays, copy=False)

    def _placement(self) -> str:
        """Return backend and element type for the repr; empty for NumPy and float32."""
        backend = "" if self.backend == "numpy" else f", backend={self.backend!r}"
        dtype = "" if self.dtype.name == "float32" else f", dtype={self.dtype.name!r}"
        return backend + dtype

    @property
    def num_parameters(self) -> int:
        """Total number of elements of all parameters.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.LSTM(2, 3, rng=0).num_parameters  # 4H * (I + H + 2)
        84
        """
        return sum(int(array.size) for array in self._parameters.values())

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters by torch's names.

        The dict is a snapshot. On NumPy it holds the layer's own arrays, which are replaced and never changed; on
        CuPy, which has no read-only arrays, it holds copies.

        Examples
        --------
        >>> import nplstm
        >>> state_dict = nplstm.LSTM(2, 3, rng=0).state_dict()
        >>> state_dict["weight_ih_l0"].shape
        (12, 2)
        """
        return {name: self._backend.guard(array) for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Replace the parameters. On an error no parameter is replaced.

        Parameters
        ----------
        state_dict : mapping of name to array
            torch's names and shapes, and the layer's element type. Arrays of NumPy or CuPy, or anything that
            ``numpy.asarray`` takes, such as a CPU tensor; they are copied to the layer's backend.
        strict : bool
            Whether names that are missing or unknown are errors. Wrong shapes always are.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``; both empty with ``strict``.

        Raises
        ------
        StateDictError
            Names every key that is missing, unknown, of another shape or of another element type.

        Examples
        --------
        >>> import nplstm
        >>> trained, lstm = nplstm.LSTM(2, 3, rng=0), nplstm.LSTM(2, 3, rng=1)
        >>> lstm.load_state_dict(trained.state_dict())
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        """
        return load_arrays(self._parameters, state_dict, owner=repr(self), strict=strict, misfit=self._misfit)

    def _misfit(self, name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
        """Return the text for a wrong shape; a layer may override it to say more."""
        return _misfit(name, expected, got)

    def to(self, backend: str | DTypeLike | None = None, dtype: DTypeLike | None = None) -> Self:
        """Move the parameters to another backend, or to another element type, and return the layer itself.

        Like torch's ``Module.to`` this changes the layer, so ``layer.to("cupy")`` alone is enough.

        Parameters
        ----------
        backend : {"numpy", "cupy"}, optional
            By default, stay. An element type in its place is taken for ``dtype``, as torch does.
        dtype : dtype, optional
            "float32" or "float64", on CuPy also "float16". By default, stay.

        Raises
        ------
        BackendUnavailableError
            If CuPy is not installed, or finds no GPU.
        DTypeError
            If the backend has no such element type; the layer is left as it was.

        Examples
        --------
        >>> import nplstm
        >>> lstm = nplstm.LSTM(2, 3, rng=0).to(dtype="float64")
        >>> lstm.parameters["weight_ih_l0"].dtype
        dtype('float64')
        """
        if dtype is None and is_dtype(backend):
            backend, dtype = None, backend
        target: Backend = self._backend if backend is None else get_backend(cast("str", backend))
        kind = check_dtype(self._dtype if dtype is None else dtype, target)
        moved = {name: transfer(array, target).astype(kind) for name, array in self._parameters.items()}
        self._parameters.replace_all(moved, copy=False)
        self._backend, self._dtype = target, kind
        return self


Misfit = Callable[[str, tuple[int, ...], tuple[int, ...]], str]
"""Takes a parameter's name, its shape and the shape that came; returns the text for the error."""


def _misfit(name: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    return f"expected shape {expected}, got {got}"


def load_arrays(
    parameters: MutableMapping[str, Array],
    state_dict: Mapping[str, Any],
    *,
    owner: str,
    strict: bool,
    misfit: Misfit = _misfit,
) -> IncompatibleKeys:
    """Replace parameters; on an error none. See ``Module.load_state_dict``."""
    if not isinstance(state_dict, Mapping):
        raise StateDictError(
            f"state_dict: expected a mapping of name to array, got {type(state_dict).__qualname__}"
        )
    missing = [name for name in parameters if name not in state_dict]
    unexpected = [name for name in state_dict if name not in parameters]
    problems: list[str] = []
    if strict and missing:
        problems.append(f"missing: {', '.join(missing)}")
    if strict and unexpected:
        problems.append(f"unexpected: {', '.join(map(str, unexpected))}")
    loaded: dict[str, Array] = {}
    for name, current in parameters.items():
        if name in state_dict:
            try:
                loaded[name] = _read(name, state_dict[name], current, misfit)
            except NplstmError as error:
                problems.append(str(error))
    if problems:
        raise StateDictError(f"state_dict does not fit {owner}; nothing was loaded:\n  " + "\n  ".join(problems))
    for name, array in loaded.items():
        parameters[name] = array
    return IncompatibleKeys(missing, unexpected)


def _read(name: str, value: Any, current: Array, misfit: Misfit) -> Array:
    try:
        array = transfer(_as_array(value), backend_of(current))
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "; cast it first, with .float()" if "bfloat16" in str(error).lower() else ""
        raise BackendError(f"{name}: expected an array, got {type(value).__qualname__} ({error}){hint}") from error
    if array.shape != current.shape:
        raise StateDictError(f"{name}: {misfit(name, current.shape, array.shape)}")
    if array.dtype != current.dtype:
        raise StateDictError(f"{name}: expected {current.dtype}, got {array.dtype}; cast it, or .to(dtype=...)")
    return array


def _as_array(value: Any) -> Any:
    """Return NumPy and CuPy arrays as they are; convert other values (tensors, nested lists) to NumPy arrays."""
    try:
        backend_of(value)
    except BackendError:
        # a tensor that requires a gradient, such as a torch Parameter, has to be detached first
        return get_backend("numpy").asarray(value.detach() if hasattr(value, "detach") else value)
    return value
