"""State dicts for PyTorch, written without torch: what torch reads of them, and what our own reader does."""

import pickletools
import struct
import zipfile

import numpy as np
import pytest

import nplstm
from nplstm.io import open_file, read_tensors, write_tensors

TYPES = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip


def arrays():
    rng = np.random.default_rng(0)
    found = {name: np.asarray(rng.uniform(0, 5, (2, 3)) * (1 + 1j)).real.astype(name) for name in TYPES}
    found |= {name: (rng.standard_normal(5) + 1j).astype(name) for name in TYPES if name.startswith("complex")}
    whole = rng.standard_normal((4, 6))
    return found | {
        "empty": np.zeros((0, 3), np.float32),
        "empty inside": np.zeros((2, 0, 3)),
        "scalar": np.array(7, np.int64),
        "one": np.ones((1, 1, 1), np.float32),
        "fortran": np.asfortranarray(whole),
        "transposed": whole.T,
        "big-endian": whole.astype(">f4"),
        "strided": whole[::2, 1::3],
        "reversed": whole[::-1],
        "repeated": np.broadcast_to(np.float32(3), (2, 3)),
        "ä.字 name": whole[0],
        "a.b.c": np.arange(300),
    }


def native(array):
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def starts(path):
    """Where the bytes of each entry begin, by its own header."""
    data = path.read_bytes()
    found = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
            found[info.filename] = info.header_offset + 30 + name + extra
            assert data[found[info.filename] :].startswith(archive.read(info))
    return found


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "m.pt"
    write_tensors(path, arrays(), {"note": "ä → 字\n"})
    read = read_tensors(path)
    assert list(read) == list(arrays())
    for name, array in arrays().items():
        assert read[name].dtype == native(array).dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == native(array).tobytes()
    with open_file(path) as file:
        assert file.format == "PyTorch"
        assert file.metadata == {"note": "ä → 字\n"}


def test_no_tensors_at_all(tmp_path):
    write_tensors(tmp_path / "m.pt", {})
    assert read_tensors(tmp_path / "m.pt") == {}
    assert "archive/nplstm.json" not in zipfile.ZipFile(tmp_path / "m.pt").namelist()


@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_written_is_read_by_torch(torch_reference, mmap, tmp_path):
    import torch

    path = tmp_path / "m.pt"
    write_tensors(path, arrays(), {"note": "x"})
    read = torch.load(path, weights_only=True, mmap=mmap)
    assert list(read) == list(arrays())
    for name, array in arrays().items():
        assert read[name].is_contiguous()
        assert not read[name].requires_grad
        assert read[name].numpy().dtype == native(array).dtype
        assert read[name].numpy().tobytes() == native(array).tobytes()
        assert tuple(read[name].shape) == array.shape
        if mmap and array.size:
            assert read[name].data_ptr() % 64 == 0


@pytest.mark.filterwarnings("ignore")
def test_torch_loads_a_saved_layer(torch_reference, tmp_path):
    import torch

    lstm = nplstm.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    nplstm.save(lstm, tmp_path / "m.pt")
    module = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    module.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(lstm(x)[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [None, 1000, 3000])
def test_storages_begin_where_they_can_be_mapped(limit, tmp_path, monkeypatch):
    """Large entries have longer headers, from a size on that is not quite the limit of 32 bits."""
    if limit:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = tmp_path / "m.pt"
    counts = [0, 1, 900, 951, 952, 953, 954, 960, 999, 1000, 1001, 2857, 2858, 3000, 3001]
    tensors = {str(count): np.full(count, count % 251, np.uint8) for count in counts}
    write_tensors(path, tensors, {"a": "b"})
    monkeypatch.undo()
    found = starts(path)
    assert len(found) == len(counts) + 4
    assert all(place % 64 == 0 for place in found.values())
    read = read_tensors(path)
    assert all(np.array_equal(read[name], array) for name, array in tensors.items())


def test_a_storage_that_is_out_of_place_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("nplstm.io.pt.state_dict_writer._ALIGNMENT", 16)
    write_tensors(tmp_path / "m.pt", arrays())
    assert any(place % 64 for place in starts(tmp_path / "m.pt").values())


def test_the_pickle_is_one_that_any_reader_takes(tmp_path):
    """Protocol 2, the entries that torch expects, no name but those of tensors."""
    write_tensors(tmp_path / "m.pt", arrays())
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        found = list(pickletools.genops(archive.read("archive/data.pkl")))
    assert found[0][1] == 2
    used = {argument for operation, argument, _ in found if operation.name == "GLOBAL"}
    storages = {name for name in used if name.endswith("Storage")}
    assert used - storages == {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
    assert len(storages) == len(TYPES)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_types_that_old_torch_lacks(dtype, tmp_path):
    with pytest.raises(
        nplstm.ArgumentError, match=rf"tensors: 'a' is {dtype}, which torch's state dicts do not hold"
    ):
        write_tensors(tmp_path / "m.pt", {"a": np.zeros(2, dtype)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [3, "a\ud800", "a" * 4097])
def test_names_that_no_file_has_are_not_written(name, tmp_path):
    with pytest.raises(nplstm.ArgumentError, match="tensors: expected names of printable text"):
        write_tensors(tmp_path / "m.pt", {name: np.zeros(2)})
    assert not list(tmp_path.iterdir())
