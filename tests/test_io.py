"""Files: written wholly or not at all, and refused when they are damaged."""

import subprocess
import sys

import numpy as np
import pytest

import nplstm
from nplstm.errors import FileFormatError, MissingDependencyError
from nplstm.io import atomic_write, open_file, read_tensors, write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_tensors_make_the_round_trip_bit_for_bit(tmp_path, be, suffix):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((2, 3)),
        "b": rng.standard_normal(4).astype(np.float32),
        "empty": np.zeros((0, 3)),
        "scalar": np.array(7),
        "transposed": rng.standard_normal((3, 2)).T,
    }
    path = tmp_path / f"t.{suffix}"
    write_tensors(path, {name: be.asarray(a) for name, a in arrays.items()}, {"note": "ä → 字"})
    with open_file(path) as file:
        assert file.format == suffix
        assert file.metadata == {"note": "ä → 字"}
        assert {name: info.shape for name, info in file.tensors.items()} == {n: a.shape for n, a in arrays.items()}
    tensors = read_tensors(path)
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].flags.c_contiguous
        assert np.array_equal(tensors[name], array)


@pytest.mark.parametrize("cut", [9, 20, 80, -1])
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_truncated_file_is_named(tmp_path, suffix, cut):
    path = tmp_path / f"t.{suffix}"
    write_tensors(path, {"a": np.zeros(9)}, {})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=rf"t\.{suffix}: not a whole (safetensors file|zip archive)"):
        read_tensors(path)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("nplstm.io._optional.import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'nplstm\[safetensors\]'"):
        write_tensors(tmp_path / "t", {}, {})


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def write_half():
        with atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.touch()
    old.chmod(0o640)
    for path in (new, old):
        with atomic_write(path) as file:
            file.write(b"x")
    plain = tmp_path / "plain"
    plain.touch()
    assert new.stat().st_mode == plain.stat().st_mode
    assert old.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A limit on the size of files stands in for a full disk: the write itself fails, as it would."""
    code = f"""
import resource, signal, sys
import numpy as np
from nplstm.io import write_tensors
path = {str(tmp_path / "model")!r}
write_tensors(path, {{"a": np.zeros(10)}}, {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_tensors(path, {{"a": np.zeros(10_000)}}, {{}})
except OSError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "File too large" in result.stdout
    assert names(tmp_path) == ["model"]
    assert read_tensors(tmp_path / "model")["a"].shape == (10,)


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    link, real = tmp_path / "link", tmp_path / "folder" / "real"
    link.symlink_to(real)
    for content in (b"first", b"second"):
        with atomic_write(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert real.read_bytes() == content
    assert names(tmp_path / "folder") == ["real"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    with pytest.raises(OSError, match="not an ordinary file") as caught, atomic_write(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="not an ordinary file"), atomic_write("/dev/null"):
        pass
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "none" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "none" / "file")


BAD_TENSORS = {
    "an object": {"a": np.array([{}], dtype=object)},
    "text": {"a": np.array(["x"])},
    "a record": {"a": np.zeros(2, dtype=[("x", "f4")])},
    "no text": {1: np.zeros(2)},
    "a surrogate": {"\udc80": np.zeros(2)},
    "a control character": {"a\0b": np.zeros(2)},
    "long": {"a" * 70_000: np.zeros(2)},
    "nothing": {"": np.zeros(2)},
}


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pt"])
@pytest.mark.parametrize("name", BAD_TENSORS)
def test_what_no_file_can_hold_is_named(name, suffix, tmp_path):
    with pytest.raises(nplstm.ArgumentError, match="tensors: "):
        write_tensors(tmp_path / f"t.{suffix}", BAD_TENSORS[name])
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "c:/x", "a\\b", "__metadata__"])
def test_what_is_written_can_be_read(name, tmp_path):
    """A name that a format does not take is refused where it is written, not where it is read."""
    for suffix in ("npz", "safetensors", "pt"):
        path = tmp_path / f"t.{suffix}"
        try:
            write_tensors(path, {name: np.arange(3)}, {"a": "b"})
        except nplstm.ArgumentError as error:
            assert repr(name) in str(error)  # noqa: PT017
        else:
            assert list(read_tensors(path)) == [name]


@pytest.mark.skipif(sys.byteorder != "little", reason="there the numbers have to be turned around")
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_a_tensor_has_the_machines_own_type(suffix, dtype, tmp_path):
    """A type that spells out the byte order compares equal, and is another one to what reads its buffer."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    write_tensors(tmp_path / f"file.{suffix}", {"a": np.arange(6, dtype=dtype).reshape(2, 3)})
    found = read_tensors(tmp_path / f"file.{suffix}")["a"]
    assert memoryview(found).format == memoryview(np.zeros(1, dtype)).format
