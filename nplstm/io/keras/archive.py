"""``.keras``: a zip archive with a model's configuration, and its weights in HDF5."""

from nplstm.errors import FileFormatError
from nplstm.io.archive import Archive
from nplstm.io.keras.file import MAX_JSON, Hdf5File, read_json, text_of
from nplstm.io.keras.hdf5 import Hdf5
from nplstm.io.keras.layers import Source, found_layers
from nplstm.io.model_file import FoundLayer

__all__ = ["KerasArchive"]


class KerasArchive(Hdf5File):
    """A ``.keras`` file, of Keras 3 or of tf.keras from 2.13 on."""

    format = "Keras"

    def _open(self) -> None:
        self._archive = Archive(self._file, self.path, self.budget)
        if "metadata.json" in self._archive:
            self.metadata = {name: text_of(value) for name, value in self._json("metadata.json").items()}
        self._hdf5 = Hdf5(self._archive.open("model.weights.h5"), self.budget)

    def _json(self, entry: str) -> dict[str, object]:
        size = self._archive.size(entry)
        if size > MAX_JSON:
            raise FileFormatError(f"{self.path}: {entry!r} has {size:,} bytes; expected at most {MAX_JSON:,}")
        return read_json(self.path, repr(entry), self._archive.read_whole(entry))

    def layers(self) -> list[FoundLayer]:
        """Return the LSTMs of the model, by the names of its layers."""
        with self._sound():
            source = Source(self, self.metadata.get("keras_version", ""))
            return found_layers(source, self._hdf5, self._json("config.json"))
