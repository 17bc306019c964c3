"""``Embedding``: the rows of a table, selected by index, as ``torch.nn.Embedding``."""

from typing import Any

from nplstm._shapes import check_shape, check_size
from nplstm._typing import Array, DTypeLike
from nplstm.backends import backend_of, check_arrays
from nplstm.core.module import Module
from nplstm.core.params import Parameters, as_generator
from nplstm.errors import ArgumentError, BackendError, DTypeError
from nplstm.training.linear import LayerGradients

__all__ = ["Embedding", "EmbeddingTape"]


class Embedding(Module):
    """``y[...] = weight[index[...]]``.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Number of vectors, and their width.
    padding_idx : int, optional
        A row that starts at zero and gets no gradient; negative counts from the end.
    backend, dtype, rng
        As for ``LSTM``. ``weight`` (num_embeddings, embedding_dim) starts from N(0, 1).

    Raises
    ------
    ArgumentError, DTypeError, BackendUnavailableError
        For the same reasons as from ``LSTM``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> table = nplstm.Embedding(10, 4, rng=0)
    >>> tape = table.record(np.array([[1, 2], [1, 3], [9, 0]]))
    >>> tape.output.shape
    (3, 2, 4)
    >>> tape.backward(np.ones_like(tape.output)).parameters["weight"][1]  # row 1 was read twice
    array([2., 2., 2., 2.], dtype=float32)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.padding_idx = None
        if padding_idx is not None:
            row = check_size("padding_idx", padding_idx, minimum=-self.num_embeddings)
            if row >= self.num_embeddings:
                raise ArgumentError(
                    f"padding_idx: expected an index of num_embeddings={num_embeddings} rows, got {padding_idx}"
                )
            self.padding_idx = row % self.num_embeddings
        self.reset_parameters(rng)

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw the table anew from N(0, 1); ``rng`` is a seed, a NumPy generator or None.

        >>> import nplstm
        >>> table = nplstm.Embedding(3, 2, padding_idx=0)
        >>> table.reset_parameters(rng=0)
        >>> table.parameters["weight"][0]
        array([0., 0.], dtype=float32)
        """
        table = as_generator(rng).standard_normal((self.num_embeddings, self.embedding_dim))
        if self.padding_idx is not None:
            table[self.padding_idx] = 0
        weight = self._backend.asarray(table.astype(self._dtype))
        self._parameters.replace_all({"weight": weight}, copy=False)

    def __call__(self, index: Array) -> Array:
        """Return the rows of the table for integers of shape (...), as an array (..., embedding_dim).

        Raises
        ------
        ArgumentError
            If an index is not in [0, num_embeddings).
        DTypeError, BackendError
            If the index is not of integers, or not on the layer's backend.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> nplstm.Embedding(10, 4)(np.array([[1, 2, 3]])).shape
        (1, 3, 4)
        """
        self._check_index(index)
        return self._parameters["weight"][index]

    def record(self, index: Array) -> "EmbeddingTape":
        """Select rows as a call does, and store a copy of the indices for ``backward``.

        >>> import numpy as np, nplstm
        >>> nplstm.Embedding(10, 4).record(np.array([1, 2])).output.shape
        (2, 4)
        """
        return EmbeddingTape(self, index)

    def _check_index(self, index: Array) -> None:
        found = backend_of(index, "index")
        if found is not self._backend:
            raise BackendError(f"index: expected an array of {self.backend!r}, got one of {found.name!r}")
        if index.dtype.kind not in "iu":
            raise DTypeError(f"index: expected integers, got {index.dtype}")
        if index.size and (int(index.min()) < 0 or int(index.max()) >= self.num_embeddings):
            raise ArgumentError(
                f"index: expected integers in [0, num_embeddings={self.num_embeddings}), "
                f"got {int(index.min())} to {int(index.max())}"
            )


class EmbeddingTape:
    """A recorded call of an ``Embedding``.

    Attributes
    ----------
    output : Array, shape (..., embedding_dim)
    """

    def __init__(self, layer: Embedding, index: Array) -> None:
        self.output = layer(index)
        self._index = index.copy()
        self._layer = layer

    def backward(self, grad_output: Array) -> LayerGradients:
        """Return the gradient of the table; may be called more than once.

        It adds up d loss / d output, (..., embedding_dim), for each row. ``input`` of the result is None. On CuPy
        the order of the additions varies, and with it the last bits of the sums.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            If ``grad_output`` does not match ``output``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> tape = nplstm.Embedding(3, 2).record(np.array([1, 1]))
        >>> tape.backward(np.ones((2, 2), np.float32)).parameters["weight"]
        array([[0., 0.],
               [2., 2.],
               [0., 0.]], dtype=float32)
        """
        layer = self._layer
        backend = backend_of(self.output)
        check_arrays("the Embedding layer", backend, self.output.dtype, grad_output=grad_output)
        check_shape("grad_output", grad_output.shape, [(str(n), n) for n in self.output.shape])
        shape = (layer.num_embeddings, layer.embedding_dim)
        grad_weight = backend.xp.zeros(shape, dtype=grad_output.dtype)
        backend.xp.add.at(grad_weight, self._index, grad_output)
        if layer.padding_idx is not None:
            grad_weight[layer.padding_idx] = 0
        return LayerGradients(None, Parameters({"weight": grad_weight}, copy=False))
