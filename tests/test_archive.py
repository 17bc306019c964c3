"""Zip archives that are not trusted: what is in them comes out exactly, and nothing else does."""

import io
import random
import re
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from nplstm.errors import FileFormatError
from nplstm.io import open_file, read_tensors
from nplstm.io.model_file import Budget
from nplstm.io.zip_archive import ZipArchive

CONTENT = {"a": bytes(range(256)) * 9000, "b/c": b"", "d": b"short", "e": bytes(3_000_001)}


def packed(method=zipfile.ZIP_STORED, content=CONTENT, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def opened(data, max_bytes=2**30, **options):
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return ZipArchive(file, "x.zip", Budget("x.zip", max_bytes), **options)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_whole_entries_and_parts(method):
    archive = opened(packed(method))
    assert archive.names == list(CONTENT)
    for name, data in CONTENT.items():
        assert archive.read_whole(name) == data
        assert archive.open(name).read() == data
        assert archive.size(name) == len(data)
        assert name in archive
    rng = random.Random(0)
    for whole in (False, True):  # before the checksum was compared, and after
        archive = opened(packed(method))
        if whole:
            archive.read("a")
        for _ in range(20):
            start, stop = sorted(rng.randrange(len(CONTENT["a"]) + 1) for _ in range(2))
            assert archive.read("a", start, stop) == CONTENT["a"][start:stop]
    with pytest.raises(FileFormatError, match=r"x\.zip: 'd' has 5 bytes, not those from 3 to 6"):
        archive.read("d", 3, 6)
    with pytest.raises(FileFormatError, match="has no entry 'none'"):
        archive.read("none")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_entry_as_a_file(method):
    file = opened(packed(method)).open("a")
    file.seek(100)
    assert file.read(10) == CONTENT["a"][100:110]
    assert file.seek(-5, 2) == len(CONTENT["a"]) - 5
    assert file.read(100) == CONTENT["a"][-5:]
    assert file.seek(7, 0) + 3 == file.seek(3, 1)
    assert file.read(2) == CONTENT["a"][10:12]


def damage(data, offset, replacement):
    changed = bytearray(data)
    changed[offset : offset + len(replacement)] = replacement
    return bytes(changed)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_byte_is_found_wherever_the_part_is(method):
    data = packed(method).getvalue()
    place = data.index(b"a") + 200
    spoilt = damage(data, place, bytes([data[place] ^ 1]))
    for start, stop in ((0, None), (1_000_000, 1_000_010), (5, 5)):
        with pytest.raises(FileFormatError, match=r"x\.zip: the entry 'a' (is damaged|declares)"):
            opened(spoilt).read("a", start, stop)
    with pytest.raises(FileFormatError, match="the entry 'a' is damaged"):
        opened(spoilt).open("a").read()


def directory_of(data, name):
    """Return where the directory's record of an entry begins."""
    # by the whole record: a time of day can have the byte that is the name
    records = [match.start() for match in re.finditer(rb"PK\x01\x02", data)]
    return next(place for place in reversed(records) if data[place + 46 :].startswith(name.encode()))


def with_field(data, name, offset, form, value):
    return damage(data, directory_of(data, name) + offset, struct.pack(form, value))


def twice():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    return file.getvalue()


def overlapping():
    """Two records of the directory for the same bytes."""
    data = packed(content={"a": b"x" * 100, "b": b"x" * 100}).getvalue()
    return with_field(data, "b", 42, "<I", 0)


def bomb():
    """Deflated zeros that declare few bytes and unpack to many."""
    data = packed(zipfile.ZIP_DEFLATED, {"a": bytes(50_000_000)}).getvalue()
    return with_field(data, "a", 24, "<I", 100)


PLAIN = packed(content={"a": b"x" * 100}).getvalue()
ATTACKS = {
    "twice": (twice, "two entries 'a'"),
    "overlap": (overlapping, "the entries '[ab]' and '[ab]' overlap"),
    "bomb": (bomb, "holds more than the 100 bytes it declares"),
    "declares more than is stored": (
        lambda: with_field(PLAIN, "a", 24, "<I", 200),
        "declares 200 bytes and stores 100",
    ),
    "declares more than deflate can": (
        lambda: with_field(packed(zipfile.ZIP_DEFLATED, {"a": b"x" * 100}).getvalue(), "a", 24, "<I", 2**31),
        "which cannot hold them",
    ),
    "outside": (
        lambda: with_field(with_field(PLAIN, "a", 24, "<I", 5000), "a", 20, "<I", 5000),
        "lies outside the file",
    ),
    "offset": (lambda: with_field(PLAIN, "a", 42, "<I", 3), "has no header where it should start"),
    "far offset": (lambda: with_field(PLAIN, "a", 42, "<I", 2**31), "lies outside|not a whole zip"),
    "encrypted": (lambda: with_field(PLAIN, "a", 8, "<H", 1), "is encrypted"),
    "method": (lambda: with_field(PLAIN, "a", 10, "<H", 12), "packed by method 12; only stored"),
    "checksum": (lambda: with_field(PLAIN, "a", 16, "<I", 1), "is damaged: checksum"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_that_lies(attack):
    make, message = ATTACKS[attack]
    with pytest.raises(FileFormatError, match=rf"^x\.zip: .*{message}"):
        opened(make()).read_whole("a")


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\\..\\b", "C:/a", ".."])
def test_a_name_that_leads_out(name):
    with pytest.raises(FileFormatError, match="has a name that leads out of the archive"):
        opened(packed(content={name: b"x"}))


def test_a_checksum_of_zero_is_none_where_that_is_agreed():
    data = with_field(PLAIN, "a", 16, "<I", 0)
    assert opened(data, crc_optional=True).read("a") == b"x" * 100
    with pytest.raises(FileFormatError, match="is damaged: checksum"):
        opened(data).read("a")


def test_cuts_and_flips_give_errors_of_ours():
    data = packed(zipfile.ZIP_DEFLATED, {"a": b"some text " * 20, "b": b"more"}).getvalue()
    rng = random.Random(0)
    for _ in range(2000):
        changed = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.randrange(4)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            archive = opened(bytes(changed))
            for name in archive.names:
                archive.read_whole(name)
        except FileFormatError:
            pass


def test_what_is_unpacked_whole_is_counted():
    archive = opened(packed(zipfile.ZIP_DEFLATED), max_bytes=1000)
    with pytest.raises(FileFormatError, match=r"the entry 'e' takes 3,000,001 bytes, and of max_bytes=1,000 only"):
        archive.read_whole("e")
    with pytest.raises(FileFormatError, match="raise max_bytes if you trust the file"):
        archive.open("a")


def test_objects_in_an_npz_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([{"some": "object"}], dtype=object))
    with pytest.raises(
        FileFormatError, match=r"x\.npz: 'a\.npy' holds Python objects, which could run code; refused"
    ):
        read_tensors(path)


def npz(tmp_path, content):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    return path


def header(text, version=1):
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text.encode()


HEADERS = {
    "huge": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n"),
    "overflow": header("{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 8)}\n"),
    "beyond": header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000000000000000,)}\n"),
    "negative": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"),
    "code": header("{'descr': '<f8', 'fortran_order': False, 'shape': __import__('os').getcwd()}\n"),
    "no dictionary": header("[1, 2]\n"),
    "type": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + bytes(8),
    "unknown type": header("{'descr': '<q9', 'fortran_order': False, 'shape': (1,)}\n") + bytes(8),
    "record": header("{'descr': [('x', '|O')], 'fortran_order': False, 'shape': (1,)}\n") + bytes(8),
    "version": header("{'descr': '<f8', 'fortran_order': False, 'shape': ()}\n", version=9) + bytes(8),
    "deep": header("(" * 5000 + ")" * 5000),
    "nothing": b"",
    "no array": b"text",
}


@pytest.mark.parametrize("name", HEADERS)
def test_an_array_that_lies(tmp_path, name):
    path = npz(tmp_path, HEADERS[name])
    with pytest.raises(FileFormatError, match=r"x\.npz: 'a\.npy' (is not an array|declares|holds Python objects)"):
        read_tensors(path)


def test_one_array_out_of_a_large_file_takes_little_memory(tmp_path):
    """A file of 1 GiB, most of it a hole, read in a process that may not have so much memory."""
    path = tmp_path / "large.npz"
    large = np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.float32, shape=(2**26,))
    del large
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "large.npy", "large.npy")
        archive.writestr(
            "small.npy", header("{'descr': '<f8', 'fortran_order': True, 'shape': (2, 1)}\n") + bytes(16)
        )
    code = f"""
import resource, numpy, nplstm.io
resource.setrlimit(resource.RLIMIT_DATA, (150 * 2**20,) * 2)
with nplstm.io.open_file({str(path)!r}) as file:
    print(file.tensors["large"].nbytes, file.read("small").shape)
    try:
        file.read("large")
    except MemoryError:
        print("MemoryError")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == [f"{2**28} (2, 1)", "MemoryError"]


def test_a_packed_entry_is_unpacked_once_for_all_parts(monkeypatch):
    archive = opened(packed(zipfile.ZIP_DEFLATED), max_bytes=4_000_000)
    pieces = []
    unpack = ZipArchive._unpack
    monkeypatch.setattr(ZipArchive, "_unpack", lambda *arguments: pieces.append(1) or unpack(*arguments))
    for start in range(0, 1000, 10):
        assert archive.read("a", start, start + 10) == CONTENT["a"][start : start + 10]
    assert len(pieces) == 1
    with pytest.raises(FileFormatError, match="the entry 'e' takes 3,000,001 bytes"):
        archive.read("e", 5, 6)  # the first is kept, and counts


def test_the_head_of_an_entry_takes_no_more(monkeypatch):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = opened(packed(method))
        assert archive.head("a", 10) == CONTENT["a"][:10]
        assert archive.head("d", 10) == CONTENT["d"]
        assert archive.head("b/c", 10) == b""
    taken = []
    take = ZipArchive._take
    monkeypatch.setattr(
        ZipArchive, "_take", lambda archive, entry, count: taken.append(count) or take(archive, entry, count)
    )
    opened(packed()).head("e", 100)
    assert sum(taken) == 100


def one_entry(name, data=b"x" * 100, extra=b"", offset=0):
    """A zip archive put together by hand, with what zipfile does not write."""
    sizes = (len(data), len(data), len(name))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, zlib.crc32(data), *sizes, 0) + name + data
    fields = (45, 45, 0, 0, 0, 0, zlib.crc32(data), *sizes, len(extra), 0, 0, 0, 0, offset)
    directory = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + name + extra
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(local), 0)
    return local + directory + end


@pytest.mark.parametrize("offset", [2**40, 2**62, 2**63, 2**64 - 1])
def test_an_offset_of_64_bits(offset):
    """The directory has room for larger offsets in a field of its own; zipfile takes them from there."""
    assert opened(one_entry(b"a")).read("a") == b"x" * 100
    with pytest.raises(FileFormatError, match=r"^x\.zip: (the entry 'a' lies outside the file|not a whole zip)"):
        opened(one_entry(b"a", extra=struct.pack("<HHQ", 1, 8, offset), offset=2**32 - 1))


def test_an_entry_without_a_name():
    with pytest.raises(FileFormatError, match="has a name that leads out"):
        opened(one_entry(b""))


def test_an_npz_is_opened_without_reading_its_numbers(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(10**6), b=np.zeros(10**6))
    np.savez_compressed(tmp_path / "c.npz", a=np.zeros(10**7))
    taken = []
    take = ZipArchive._take
    monkeypatch.setattr(
        ZipArchive, "_take", lambda archive, entry, count: taken.append(count) or take(archive, entry, count)
    )
    for file in (path, tmp_path / "c.npz"):
        with open_file(file) as opened_file:
            assert sum(taken) < 100_000
            opened_file.read("a")
            assert sum(taken) > 9_000
        taken.clear()


ODD = ["|S0", "<U0", "|V0", "|S8", "<U2", "<M8[s]"]


@pytest.mark.parametrize("descr", ODD)
@pytest.mark.parametrize(
    "shape", ["(1,)", "()", "(0,)", "(10000,)", "(True,)", "('a',)", "(1,)*65", "(0, 10**30)"]
)
def test_types_and_shapes_of_no_numbers(tmp_path, descr, shape):
    shown = repr((1,) * 65) if "*65" in shape else shape.replace("10**30", str(10**30))
    path = npz(tmp_path, header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shown}}}\n") + bytes(8))
    with pytest.raises(FileFormatError, match=r"x\.npz: ('a\.npy' (declares|is not an array)|the tensor 'a' is)"):
        read_tensors(path)
    numbers = npz(tmp_path, header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shown}}}\n") + bytes(8))
    if shape not in {"(1,)", "()"}:
        with pytest.raises(FileFormatError, match=r"x\.npz: 'a\.npy' (declares|is not an array)"):
            read_tensors(numbers)


def test_arrays_whose_names_end_alike(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"w": [1.0, 2.0], "w.npy": [7.0, 8.0, 9.0]})
    assert {name: list(array) for name, array in read_tensors(path).items()} == {"w": [1, 2], "w.npy": [7, 8, 9]}


def test_a_name_with_more_behind_its_end():
    """zipfile cuts names at a zero byte: two names could become one."""
    with pytest.raises(FileFormatError, match="has a name that leads out"):
        opened(one_entry(b"a\0b"))


def test_entries_may_not_reach_into_the_next_ones_header():
    data = packed(content={"a": b"x" * 100, "b": b"y" * 100}).getvalue()
    longer = with_field(with_field(data, "a", 24, "<I", 110), "a", 20, "<I", 110)
    with pytest.raises(FileFormatError, match="the entries 'a' and 'b' overlap"):
        opened(longer)
