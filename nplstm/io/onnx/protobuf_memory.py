"""Estimate of the memory of a parsed protobuf message, from its bytes in the wire format before they are parsed.

A message of two bytes, such as an empty node, becomes an object of two hundred. So the file's size is no bound;
the number of fields is. Arrays of numbers, which are most of a model, are skipped in one step.
"""

from collections.abc import Iterator

__all__ = ["parsed_sizes"]

_FIELD = 200
"""More bytes than any field takes, without its content; measured on empty attributes, which take the most."""

_UNKNOWN = 100
"""How many bytes one byte of a message of unknown type may become."""

_SHARE = 1 << 20

# By message and field number: the message type, "text", or how many bytes one byte becomes. See onnx.proto.
_FIELDS: dict[str, dict[int, str | int]] = {
    "model": {2: "text", 3: "text", 4: "text", 6: 1, 7: "graph", 14: "entry", 25: "function"},
    "graph": {1: "node", 2: "text", 5: "tensor", 10: 1, 16: "entry"},
    "function": {1: "text", 4: "text", 5: "text", 6: "text", 7: "node", 8: 1, 10: "text", 13: "text"},
    "node": {1: "text", 2: "text", 3: "text", 4: "text", 5: "attribute", 6: 1, 7: "text", 8: "text", 9: "entry"},
    "attribute": {
        1: "text", 4: 1, 5: "tensor", 6: "graph", 7: 1, 8: 8, 9: 1, 10: "tensor", 11: "graph", 13: 1, 21: "text",
    },
    "tensor": {1: 8, 4: 1, 5: 4, 6: 1, 7: 8, 8: "text", 9: 1, 10: 1, 11: 8, 12: 1, 13: "entry"},
    "entry": {1: "text", 2: "text"},
}  # fmt: skip


def parsed_sizes(data: bytes) -> Iterator[int]:
    """Yield the memory of the parts of a ``ModelProto``, in bytes; the sum is an upper bound.

    Data that are not valid protobuf end early: the parser will raise.

    Raises
    ------
    UnicodeDecodeError
        If a name is not UTF-8: protobuf returns such names as bytes.
    """
    size, waiting = 0, [(0, len(data), "model")]
    try:
        while waiting:
            at, end, message = waiting.pop()
            while at < end:
                tag, at = _varint(data, at)
                size += _FIELD
                wire_type = tag & 7
                if wire_type == 2:
                    length, at = _varint(data, at)
                    inside = _FIELDS[message].get(tag >> 3, _UNKNOWN)
                    if inside == "text":
                        size += len(data[at : at + length].decode())
                    elif isinstance(inside, str):
                        waiting.append((at, min(at + length, end), inside))
                    else:
                        size += length * inside
                    at += length
                elif wire_type == 0:
                    _, at = _varint(data, at)
                else:
                    at += {1: 8, 5: 4}.get(wire_type, 0)
                if size >= _SHARE:
                    yield size
                    size = 0
    except IndexError:  # the data end inside of a number
        pass
    yield size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint that begins at an offset, seven bits a byte, and the offset after it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128 or shift > 63:
            return number, at
        shift += 7
