"""``.weights.h5`` of Keras 3, and the ``.h5`` of before: a whole model, or weights alone."""

from typing import Any

from nplstm.io.keras.file import Hdf5File, read_json
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.keras.layers import Source, found_layers, legacy_layers
from nplstm.io.model_file import FoundLayer

__all__ = ["KerasH5File"]

_METADATA = ("keras_version", "backend")


class KerasH5File(Hdf5File):
    """An HDF5 file that Keras wrote.

    ``format`` is "Keras (HDF5)" where layers have groups with their names, which may come with the model's
    configuration, and "Keras weights" where groups are called by classes.
    """

    format = "Keras (HDF5)"

    def _open(self) -> None:
        self._hdf5 = Hdf5(self._file, self.budget)
        self._group = "model_weights" if "model_weights" in self._hdf5 else ""
        whole = {name: self._hdf5.texts(self._group, name) or self._hdf5.texts("", name) for name in _METADATA}
        self.metadata = {name: texts[0] for name, texts in whole.items() if texts}
        names = ("layer_names", "layer_names0")
        self._legacy = any(self._hdf5.texts(self._group, name) is not None for name in names)
        if not self._legacy:
            # what a file is shows when it is open
            self.format = "Keras weights"

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs: by the names of layers, or where there are none, by their places."""
        source = Source(self, self.metadata.get("keras_version", ""))
        with self._sound():
            if self._legacy:
                return legacy_layers(source, self._hdf5, self._group, self._model())
            return found_layers(source, self._hdf5, None)

    def _model(self) -> dict[str, Any] | None:
        text = self._hdf5.texts("", "model_config")
        return read_json(self.path, "its model_config", text[0]) if text else None
