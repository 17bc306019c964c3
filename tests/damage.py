"""Good files made bad: bytes changed, cut out, put in, doubled. Only errors of ours may come of it."""

from contextlib import suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

import nplstm
from nplstm.io import open_file

CASES = max(500, 20 * settings().max_examples)
"""How many damaged files a test tries: some 500, and with the profile "thorough" 10,000."""


@st.composite
def damages(draw, size: int):
    """Draw what is done to a file of so many bytes: a list of (place, length that goes, bytes that come)."""
    places = st.one_of(st.integers(0, min(size, 64)), st.integers(0, size), st.integers(max(size - 64, 0), size))
    change = st.tuples(places, st.integers(0, 4), st.binary(max_size=4))
    flip = places.flatmap(lambda place: st.tuples(st.just(place), st.just(1), st.binary(min_size=1, max_size=1)))
    cut = places.map(lambda place: (place, size, b""))
    return draw(st.lists(st.one_of(flip, change, cut), min_size=1, max_size=3))


def damaged(data: bytes, changes) -> bytes:
    """Return the bytes with these changes, one after the other."""
    for place, length, new in changes:
        data = data[:place] + new + data[place + length :]
    return data


def read_all(path: Path) -> None:
    """Read everything there is to read of a file: its layers, their weights, its tensors."""
    with open_file(path, max_bytes=2**26) as file:
        for layer in file.layers():
            with suppress(nplstm.NplstmError):
                layer.read()
        for name in file.tensors:
            file.read(name)
    nplstm.load(path, max_bytes=2**26)


def check_damaged(path: Path, data: bytes, changes) -> None:
    """Write a damaged file and read it; errors of ours are all that may come of it."""
    path.write_bytes(damaged(data, changes))
    problem = str(path)
    try:
        read_all(path)
    except nplstm.NplstmError as error:
        problem = str(error)
    assert str(path) in problem, problem
