"""Readers of Keras's files: ``.keras`` (a zip archive), ``.weights.h5`` and ``.h5`` (HDF5)."""

import json
import os
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from nplstm._typing import Array
from nplstm.errors import FileFormatError
from nplstm.io.keras.find_layers import WeightSource, layers_in_class_groups, layers_in_named_groups
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.model_file import FoundLayer, OpenModelFile, damaged
from nplstm.io.zip_archive import ZipArchive

__all__ = ["KerasH5File", "KerasZipFile"]

_MAX_JSON = 16 * 2**20
"""More bytes than any configuration takes, and few enough to parse."""

_METADATA = ("keras_version", "backend")


class _KerasFile(OpenModelFile):
    """A file whose tensors are the datasets of an HDF5 file in it, or of itself.

    A subclass opens the HDF5 file in ``_open_hdf5``.
    """

    _hdf5: Hdf5

    def _open(self) -> None:
        with self._sound():
            self._open_hdf5()
        self.tensors = {name: dataset.info for name, dataset in self._hdf5.datasets.items()}

    @abstractmethod
    def _open_hdf5(self) -> None:
        """Set ``_hdf5``, and ``metadata`` if the file has any."""

    @contextmanager
    def _sound(self) -> Generator[None]:
        """Turn errors about the content into a ``FileFormatError`` that names the file."""
        with damaged(self.path, "not as Keras writes it", ValueError, OverflowError):
            yield

    def _read(self, name: str) -> Array:
        with self._sound():
            return self._hdf5.read(name)


class KerasZipFile(_KerasFile):
    """A ``.keras`` file, of Keras 3 or of tf.keras from 2.13 on."""

    format = "Keras"

    def _open_hdf5(self) -> None:
        self._archive = ZipArchive(self._file, self.path, self.budget)
        if "metadata.json" in self._archive:
            self.metadata = {name: _text_of(value) for name, value in self._json("metadata.json").items()}
        self._hdf5 = Hdf5(self._archive.open("model.weights.h5"), self.budget)

    def _json(self, entry: str) -> dict[str, object]:
        size = self._archive.size(entry)
        if size > _MAX_JSON:
            raise FileFormatError(f"{self.path}: {entry!r} has {size:,} bytes; expected at most {_MAX_JSON:,}")
        return _read_json(self.path, repr(entry), self._archive.read_whole(entry))

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs of the model, by the names of its layers."""
        with self._sound():
            source = WeightSource(self, self.metadata.get("keras_version", ""))
            return layers_in_class_groups(source, self._hdf5, self._json("config.json"))


class KerasH5File(_KerasFile):
    """An HDF5 file that Keras wrote.

    ``format`` is "Keras (HDF5)" where layers have groups with their names, which may come with the model's
    configuration, and "Keras weights" where groups are called by classes.
    """

    format = "Keras (HDF5)"

    def _open_hdf5(self) -> None:
        self._hdf5 = Hdf5(self._file, self.budget)
        self._group = "model_weights" if "model_weights" in self._hdf5 else ""
        whole = {name: self._hdf5.texts(self._group, name) or self._hdf5.texts("", name) for name in _METADATA}
        self.metadata = {name: texts[0] for name, texts in whole.items() if texts}
        names = ("layer_names", "layer_names0")
        self._legacy = any(self._hdf5.texts(self._group, name) is not None for name in names)
        if not self._legacy:
            self.format = "Keras weights"

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs, by the names of layers, or by their groups where layers have no names."""
        source = WeightSource(self, self.metadata.get("keras_version", ""))
        with self._sound():
            if self._legacy:
                return layers_in_named_groups(source, self._hdf5, self._group, self._model())
            return layers_in_class_groups(source, self._hdf5, None)

    def _model(self) -> dict[str, Any] | None:
        text = self._hdf5.texts("", "model_config")
        return _read_json(self.path, "its model_config", text[0]) if text else None


def _read_json(path: str | os.PathLike[str], what: str, text: str | bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    FileFormatError
        If the text is not a JSON object, or is too long or nested too deep.
    """
    if len(text) > _MAX_JSON:
        raise FileFormatError(f"{path}: {what} has {len(text):,} bytes; expected at most {_MAX_JSON:,}")
    with damaged(path, f"{what} is not JSON", ValueError, RecursionError):
        found = json.loads(text)
    if not isinstance(found, dict):
        raise FileFormatError(f"{path}: {what} is not an object, but a {type(found).__name__}")
    return cast("dict[str, Any]", found)


def _text_of(value: Any) -> str:
    """Return a JSON value as text; "" for lists and objects."""
    return str(value) if isinstance(value, str | int | float) else ""
