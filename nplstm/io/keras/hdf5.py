"""Objects of an HDF5 file: the datasets and text attributes that Keras writes, by their paths."""

from itertools import pairwise
from math import prod
from typing import BinaryIO, NamedTuple

from nplstm._typing import Array
from nplstm.io.keras import hdf5_messages as messages
from nplstm.io.keras.hdf5_messages import Attribute, Cursor, Datatype, MalformedError, RawData
from nplstm.io.keras.hdf5_structures import MAX_NAME, Structures
from nplstm.io.model_file import Budget, TensorInfo, array_from_bytes

__all__ = ["Dataset", "Hdf5"]

_MAX_DEPTH = 64
_MAX_OBJECTS = 100_000
_REFERENCE = 16
_STRING = 64
"""Memory of a short text in Python, in bytes."""
_SHARED = 0x2


class Dataset(NamedTuple):
    """An array in the file."""

    shape: tuple[int, ...]
    type: Datatype
    storage: RawData

    @property
    def info(self) -> TensorInfo:
        """Shape and element type, by NumPy's name."""
        return TensorInfo(self.shape, self.type.name)


class Hdf5:
    """All of a file's objects by their paths, "" for the root.

    Parameters
    ----------
    file : binary file
        Seekable. It is not closed here.
    budget : Budget
        Counts the memory of heaps of texts.

    Attributes
    ----------
    datasets : dict of str to Dataset
        Arrays of numbers.
    others : dict of str to str
        Kinds of the datasets that hold something else.

    Raises
    ------
    MalformedError
        Also from the methods: if the file is damaged, hostile, or in a form that Keras does not write.
    """

    def __init__(self, file: BinaryIO, budget: Budget) -> None:
        self._budget = budget
        self._structures = Structures(file, budget)
        self._attributes: dict[str, dict[str, Attribute]] = {}
        self._texts_read: dict[tuple[str, str], list[str] | None] = {}
        self.datasets: dict[str, Dataset] = {}
        self.others: dict[str, str] = {}
        waiting = [("", self._structures.root())]
        while waiting:
            path, address = waiting.pop()
            links = self._object(path, address)
            waiting += [(f"{path}/{name}" if path else name, child) for name, child in reversed(links)]
        self._check_overlaps()

    def __contains__(self, path: str) -> bool:
        return path in self._attributes

    def texts(self, path: str, name: str) -> list[str] | None:
        """Return an attribute of an object as a list of texts; None if the object has no attribute of that name.

        An attribute without texts counts as empty: h5py writes an empty list of names as an array of floats.
        """
        if (path, name) not in self._texts_read:
            attribute = self._attributes.get(path, {}).get(name)
            self._texts_read[path, name] = None if attribute is None else self._texts(path, attribute)
        return self._texts_read[path, name]

    def read(self, path: str) -> Array:
        """Return a dataset as a new array."""
        shape, element, storage = self.datasets[path]
        if storage.problem:
            raise MalformedError(f"the dataset {path!r} cannot be read: {storage.problem}")
        data = storage.inline or b""
        if storage.inline is None and storage.size:
            data = self._structures.read(storage.address, storage.size)
        return array_from_bytes(data, element.name, shape, ">" if element.big_endian else "<")

    def _texts(self, path: str, attribute: Attribute) -> list[str]:
        kind, size = attribute.type.kind, attribute.type.size
        if kind not in {"string", "text"} or size == 0:
            return []
        if attribute.elements * size > len(attribute.data) or (kind == "text" and size != _REFERENCE):
            raise MalformedError(f"the attribute {attribute.name!r} of {path!r} has {len(attribute.data)} bytes")
        self._budget.take(_STRING * attribute.elements, f"the attribute {attribute.name!r} of {path!r}")
        pieces = [attribute.data[k * size : (k + 1) * size] for k in range(attribute.elements)]
        return [self._structures.text(p) if kind == "text" else p.rstrip(b"\0").decode() for p in pieces]

    def _object(self, path: str, address: int) -> list[tuple[str, int]]:
        """Read the object whose header is at ``address``; return the links of a group."""
        self._check_path(path)
        self._attributes[path] = {}
        found: dict[int, bytes] = {}
        for kind, flags, body in self._structures.header(address):
            if kind in messages.NEWER or flags & _SHARED:
                raise MalformedError(
                    f"{path or '/'!r} has a {messages.NEWER.get(kind, 'shared')} message, of the newer form of "
                    f"HDF5, in which links can lead to other files; Keras writes none"
                )
            if kind == messages.ATTRIBUTE:
                attribute = messages.read_attribute(body)
                if attribute is not None:
                    self._attributes[path][attribute.name] = attribute
            elif kind in found and kind in messages.SINGLE:
                raise MalformedError(f"{path or '/'!r} has two messages of kind {kind}")
            found[kind] = body
        if messages.SYMBOL_TABLE in found:
            return list(self._structures.links(*Cursor(found[messages.SYMBOL_TABLE]).numbers(8, 8)))
        if messages.LAYOUT in found:
            self._add_dataset(path, found)
        return []

    def _check_path(self, path: str) -> None:
        if len(self._attributes) >= _MAX_OBJECTS:
            raise MalformedError(f"more than {_MAX_OBJECTS:,} objects")
        if len(path) > MAX_NAME or path.count("/") > _MAX_DEPTH:
            raise MalformedError(f"groups more than {_MAX_DEPTH} deep, or a path longer than {MAX_NAME:,}")
        if path in self._attributes:
            raise MalformedError(f"two links are called {path!r}")

    def _add_dataset(self, path: str, found: dict[int, bytes]) -> None:
        if messages.DATASPACE not in found or messages.DATATYPE not in found:
            raise MalformedError(f"the dataset {path!r} has no shape or no element type")
        shape = messages.read_shape(found[messages.DATASPACE])
        element = messages.read_element_type(found[messages.DATATYPE])
        if element.kind == "opaque" and element.size == 2 and self.texts(path, "dtype") == ["bfloat16"]:
            element = Datatype("number", 2, "bfloat16")  # so marked by Keras; older h5py does not know the type
        if element.kind != "number" or shape is None:
            self.others[path] = element.kind if shape is not None else "null"
            return
        storage = messages.read_storage(found[messages.LAYOUT])
        if messages.EXTERNAL_FILES in found:
            storage = RawData(problem="its data lie in other files")
        self.datasets[path] = Dataset(shape, element, storage)
        if storage.problem is None:
            self._check_place(path, self.datasets[path])

    def _check_overlaps(self) -> None:
        """Raise if two datasets share bytes, with which a small file could declare a lot of data."""
        stored = [
            (found.storage.address, found.storage.size, name)
            for name, found in self.datasets.items()
            if found.storage.inline is None and found.storage.size and found.storage.problem is None
        ]
        for (start, size, one), (other_start, _, other) in pairwise(sorted(stored)):
            if start + size > other_start:
                raise MalformedError(f"the datasets {one!r} and {other!r} overlap")

    def _check_place(self, path: str, dataset: Dataset) -> None:
        """Raise unless the stored size is what the shape needs, and the data lie inside the file."""
        shape, element, (address, size, inline, _) = dataset
        nowhere = inline is None and address == messages.UNDEFINED
        needed, stored = prod(shape) * element.size, 0 if nowhere else size
        outside = inline is None and stored > 0 and address + stored > self._structures.size
        if needed != stored or outside:
            raise MalformedError(
                f"the dataset {path!r} declares {element.name} {shape}, {needed:,} bytes, and has {stored:,}"
                f"{f' from {address:,} on, outside the file' if outside else ''}"
            )
