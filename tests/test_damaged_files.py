"""Damaged safetensors and npz files; the other formats have theirs beside their own tests."""

import json
import struct

import numpy as np
import pytest
from damage import CASES, check_damaged, damages
from hypothesis import given, settings
from hypothesis import strategies as st

import nplstm
from nplstm.io import open_file, read_tensors, write_tensors
from nplstm.io.npz_file import NpzFile


def good(folder, suffix):
    path = folder / f"good.{suffix}"
    nplstm.save(nplstm.LSTM(2, 3, 2, bidirectional=True, rng=0), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_only_errors_of_ours(suffix, folder):
    data = good(folder, suffix)

    @settings(max_examples=CASES)
    @given(damages(len(data)))
    def check(changes):
        check_damaged(folder / f"bad.{suffix}", data, changes)

    check()


def test_an_error_of_pythons_own_is_seen(folder, monkeypatch):
    """The check above fails where reading ends in anything else."""
    data = good(folder, "npz")
    monkeypatch.setattr(NpzFile, "_header", lambda file, entry: {}[entry])
    with pytest.raises(KeyError):
        check_damaged(folder / "bad.npz", data, [(0, 0, b"")])
    monkeypatch.undo()
    monkeypatch.setattr(nplstm.io.detect_format, "_KNOWN", "")
    monkeypatch.setattr(
        nplstm.io.detect_format, "FileFormatError", lambda text: nplstm.FileFormatError("a file without a name")
    )
    with pytest.raises(AssertionError, match="a file without a name"):
        check_damaged(folder / "bad.npz", data, [(0, 1, b"?")])


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LIES = {
    "shape": safetensors({"a": entry(shape=(3,))}, bytes(8)),
    "huge shape": safetensors({"a": entry(shape=(2**62, 4))}, bytes(8)),
    "negative shape": safetensors({"a": entry(shape=(-2,))}, bytes(8)),
    "outside": safetensors({"a": entry(offsets=(0, 800), shape=(200,))}, bytes(8)),
    "backwards": safetensors({"a": entry(offsets=(8, 0))}, bytes(8)),
    "overlap": safetensors({"a": entry(), "b": entry()}, bytes(8)),
    "gap": safetensors({"a": entry(), "b": entry(offsets=(16, 24))}, bytes(24)),
    "more behind": safetensors({"a": entry()}, bytes(80)),
    "type": safetensors({"a": entry(dtype="OBJECT")}, bytes(8)),
    "no json": safetensors(b"{'a'", bytes(8)),
    "deep": safetensors(b"{" + b'"a":{' * 20_000, bytes(8)),
    "header's length": struct.pack("<Q", 2**40) + b"{}",
    "metadata": safetensors({"__metadata__": {"a": 1}, "a": entry()}, bytes(8)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies(name, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LIES[name])
    with pytest.raises(
        nplstm.FileFormatError, match=r"x\.safetensors: (not a whole safetensors|of no known kind)"
    ):
        read_tensors(path)


def test_element_types_that_numpy_lacks(tmp_path):
    path = tmp_path / "x.safetensors"
    numbers = np.array([1.5, -2.25, 3e38, np.inf], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype("<u2")
    header = {
        "a": entry("BF16", (2, 2), (0, 8)),
        "b": entry("F8_E4M3", (3,), (8, 11)),
        "c": entry("F32", (), (11, 15)),
    }
    path.write_bytes(safetensors(header, halves.tobytes() + bytes(3) + np.float32(7).tobytes()))
    with open_file(path) as file:
        assert file.tensors["a"].dtype == "bfloat16"
        widened = file.read("a")
        assert widened.dtype == np.float32
        assert np.array_equal(widened.ravel(), (halves.astype(np.uint32) << 16).view(np.float32))
        assert file.read("c") == 7
        with pytest.raises(nplstm.FileFormatError, match=r"'b' is F8_E4M3, no type of numbers that NumPy has"):
            file.read("b")
        with pytest.raises(nplstm.ArgumentError, match=r"name: .*x\.safetensors has no tensor 'd'"):
            file.read("d")


KINDS = {
    "nothing": (b"", "the file is empty"),
    "text": (b"just a text", "of no known kind"),
    "npy": (b"\x93NUMPY\x01\x00", "a single array"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "gzip": (b"\x1f\x8b\x08\x00", "packed by gzip"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "a tar archive"),
    "ort": (b"\x1c\x00\x00\x00ORTM", "onnxruntime's own format"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_kinds_are_named(name, tmp_path):
    path = tmp_path / "x.pt"
    content, message = KINDS[name]
    path.write_bytes(content)
    with pytest.raises(
        nplstm.FileFormatError, match=rf"x\.pt: .*{message}.*PyTorch, safetensors, npz, ONNX and Keras"
    ):
        nplstm.load(path)


def test_what_is_no_ordinary_file(tmp_path):
    with pytest.raises(nplstm.FileFormatError, match="not an ordinary file"):
        nplstm.load(tmp_path)
    with pytest.raises(nplstm.FileFormatError, match="not an ordinary file"):
        nplstm.load("/dev/zero")
    with pytest.raises(FileNotFoundError):
        nplstm.read_tensors(tmp_path / "none")


def test_what_is_read_is_counted(tmp_path):
    write_tensors(tmp_path / "x.npz", {"a": np.zeros(100), "b": np.zeros(100)})
    assert len(read_tensors(tmp_path / "x.npz", max_bytes=1600)) == 2
    with pytest.raises(
        nplstm.FileFormatError, match="the tensor 'b' takes 800 bytes, and of max_bytes=1,599 only 799"
    ):
        read_tensors(tmp_path / "x.npz", max_bytes=1599)
    with pytest.raises(nplstm.ArgumentError, match="max_bytes: expected an integer >= 1"):
        read_tensors(tmp_path / "x.npz", max_bytes=0)


@given(st.data())
def test_any_array_of_numbers_comes_back(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("arrays")
    suffix = data.draw(st.sampled_from(["npz", "safetensors"]))
    dtype = data.draw(
        st.sampled_from("bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64".split())
    )
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=4)))
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    array = data.draw(
        st.sampled_from([array, np.asfortranarray(array), array.T, array[..., ::-1] if shape else array])
    )
    name = data.draw(st.text(st.characters(categories=["L", "N", "P"], exclude_characters="/\\:"), min_size=1))
    write_tensors(folder / f"x.{suffix}", {name: array})
    back = read_tensors(folder / f"x.{suffix}")
    assert list(back) == [name]
    assert back[name].dtype == array.dtype
    assert np.array_equal(back[name], array)
