"""Messages in the header of an HDF5 object: its shape, element type, data address and attributes, decoded.

Names and numbers are those of the "HDF5 File Format Specification", section "Data Object Header Messages".
Functions here take bytes and return plain values; bytes that do not fit raise ``MalformedError``.
"""

from math import prod
from typing import NamedTuple

__all__ = [
    "ATTRIBUTE",
    "CONTINUATION",
    "DATASPACE",
    "DATATYPE",
    "EXTERNAL_FILES",
    "LAYOUT",
    "NEWER",
    "SINGLE",
    "SYMBOL_TABLE",
    "UNDEFINED",
    "Attribute",
    "Cursor",
    "Datatype",
    "MalformedError",
    "RawData",
    "read_attribute",
    "read_element_type",
    "read_shape",
    "read_storage",
]

DATASPACE, DATATYPE, EXTERNAL_FILES, LAYOUT = 0x01, 0x03, 0x07, 0x08
ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x0C, 0x10, 0x11
NEWER = {0x02: "link info", 0x06: "link"}
"""Messages of groups in the form of HDF5 1.8, the only one that can have links to other files."""

SINGLE = {DATASPACE, DATATYPE, LAYOUT, SYMBOL_TABLE}
"""Messages that an object has only once."""

UNDEFINED = 2**64 - 1
"""HDF5's undefined address."""

_MAX_RANK = 32


class MalformedError(ValueError):
    """The bytes are not valid HDF5, or of a form that is not read."""


class Cursor:
    """Bytes that are decoded one field after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._offset = data, 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes; raise if there are fewer."""
        if count > self.left:
            raise MalformedError(f"{count} bytes are expected where {self.left} are left")
        self._offset += count
        return self._data[self._offset - count : self._offset]

    def number(self, width: int) -> int:
        """Return the next bytes as a number, little-endian and unsigned, as all are."""
        return int.from_bytes(self.take(width), "little")

    def numbers(self, *widths: int) -> list[int]:
        """Return several numbers of these widths."""
        return [self.number(width) for width in widths]

    def align(self, start: int) -> None:
        """Skip to the next multiple of 8 bytes after the field that began when ``left`` was ``start``."""
        self.take(-(start - self.left) % 8)


class Datatype(NamedTuple):
    """Element type of a dataset or attribute."""

    kind: str  # "number", "string" (of fixed length), "text" (of any length), or what HDF5 calls it
    size: int  # bytes of an element, as stored
    name: str = ""  # of a number: NumPy's, or "bfloat16"
    big_endian: bool = False


_OTHERS = {
    2: "time", 3: "string", 4: "bit field", 5: "opaque", 6: "compound", 7: "reference", 8: "enumeration",
    9: "variable-length", 10: "array", 11: "complex",
}  # fmt: skip

_FLOATS: dict[tuple[int, ...], str] = {  # size; place and size of exponent, of mantissa; bias
    (2, 10, 5, 0, 10, 15): "float16",
    (2, 7, 8, 0, 7, 127): "bfloat16",
    (4, 23, 8, 0, 23, 127): "float32",
    (8, 52, 11, 0, 52, 1023): "float64",
}


def read_element_type(data: bytes) -> Datatype:
    """Decode a datatype message."""
    fields = Cursor(data)
    kind = fields.number(1) & 15
    bits, size = fields.numbers(3, 4)
    if kind in {0, 1}:
        name = (_integer if kind == 0 else _float)(bits, size, fields)
        if name is None:
            return Datatype("number of uncommon form", size)
        return Datatype("number", size, name, big_endian=bool(bits & 1))
    if kind == 9 and bits & 15 == 1:
        return Datatype("text", size)
    return Datatype(_OTHERS.get(kind, f"class {kind}"), size)


def _integer(bits: int, size: int, fields: Cursor) -> str | None:
    """Return NumPy's name of an integer type; None for one with padding bits."""
    usual = fields.numbers(2, 2) == [0, 8 * size] and size in {1, 2, 4, 8}
    return f"{'int' if bits & 8 else 'uint'}{8 * size}" if usual else None


def _float(bits: int, size: int, fields: Cursor) -> str | None:
    """Return the name of a floating point type of IEEE form, or "bfloat16"; None for another."""
    # bit 6: the VAX's order; bits 4 and 5: 2 for a leading 1 that is not stored; from bit 8 on: the sign's place
    usual = not bits & 0x40 and (bits >> 4) & 3 == 2 and bits >> 8 == 8 * size - 1
    usual = usual and fields.numbers(2, 2) == [0, 8 * size]
    return _FLOATS.get((size, *fields.numbers(1, 1, 1, 1, 4))) if usual else None


def read_shape(data: bytes) -> tuple[int, ...] | None:
    """Decode a dataspace message: the shape, () of a scalar; None where there is no element at all."""
    fields = Cursor(data)
    version, rank = fields.numbers(1, 1)
    if version not in {1, 2} or rank > _MAX_RANK:
        raise MalformedError(f"a dataspace of version {version} and {rank} axes")
    rest = fields.numbers(1, 5) if version == 1 else fields.numbers(1, 1)
    if version == 2 and rest[1] == 2:
        return None
    return tuple(fields.numbers(*[8] * rank))


class RawData(NamedTuple):
    """Address and size of a dataset's bytes."""

    address: int = UNDEFINED
    size: int = 0
    inline: bytes | None = None  # data in the message itself
    problem: str | None = None  # why they are not read


def read_storage(data: bytes) -> RawData:
    """Decode a data layout message."""
    fields = Cursor(data)
    version, layout = fields.numbers(1, 1)
    if version == 4 and layout == 3:
        return RawData(problem="it is virtual: its data lie in other datasets or files")
    if version != 3 or layout > 2:
        return RawData(problem=f"its layout has version {version} and class {layout}; Keras writes version 3")
    if layout == 0:
        inline = fields.take(fields.number(2))
        return RawData(size=len(inline), inline=inline)
    if layout == 1:
        address, size = fields.numbers(8, 8)
        return RawData(address, size)
    return RawData(problem="it is stored in chunks, perhaps packed; Keras writes arrays in one piece")


class Attribute(NamedTuple):
    """A named value of an object; only texts are used here."""

    name: str
    type: Datatype
    elements: int  # how many
    data: bytes


def read_attribute(data: bytes) -> Attribute | None:
    """Decode an attribute message; None for one whose datatype is shared."""
    fields = Cursor(data)
    version, flags, name_size, type_size, shape_size = fields.numbers(1, 1, 2, 2, 2)
    if version not in {1, 2, 3}:
        raise MalformedError(f"an attribute of version {version}")
    if version > 1 and flags:
        return None
    if version == 3:
        fields.take(1)  # the name's character set; ASCII is UTF-8, too
    parts: list[bytes] = []
    for size in (name_size, type_size, shape_size):
        start = fields.left
        parts.append(fields.take(size))
        if version == 1:
            fields.align(start)
    name = parts[0].partition(b"\0")[0].decode()
    shape = read_shape(parts[2])
    return Attribute(
        name, read_element_type(parts[1]), 0 if shape is None else prod(shape), fields.take(fields.left)
    )
