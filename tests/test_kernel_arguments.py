"""Invalid arguments of the C kernels: each is an error, never an access outside of an array."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_sets import AVAILABLE
from numpy.lib.stride_tricks import as_strided

B, I, H, P, T, LAYERS = 2, 3, 5, 2, 4, 2
N = 7  # rows: the second sequence has one step less
OFFSETS = np.array([0, 2, 4, 6, 7])


def filled(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


class Arguments:
    """Arguments that fit, for vectors of so many float32: a layer with peepholes, a bound and a projection."""

    def __init__(self, lanes: int) -> None:
        self.Hp, self.Ip, self.Pp = (-(-width // lanes) * lanes for width in (H, I, P))
        self.G = 4 * self.Hp

    def forward(self) -> list[Any]:
        weights = (filled(self.G * I), filled(self.G * P), filled(self.G))
        direction = (filled(N, I), *weights, filled(B, P), filled(B, self.Hp), filled(N, P), False)
        direction += (filled(N, self.G), filled(N, self.Hp), H, filled(3, self.Hp), 0.9)
        return [((*direction, filled(H * self.Pp), filled(B * (self.Hp + self.Pp))),) * 2, OFFSETS, 2]

    def backward(self) -> list[Any]:
        states = (filled(B, self.Pp), filled(B, self.Hp), filled(B, self.Hp))
        direction = (filled(N, P), filled(self.G * self.Pp), *states, filled(N, self.G), filled(N, self.Hp))
        direction += (filled(N, self.G), 0, False, H, P, filled(3, self.Hp), 0.9)
        return [((*direction, filled(P * self.Hp), filled(N, self.Pp), filled(B, self.Hp)),), OFFSETS, 0, T, 2]

    def previous(self) -> list[Any]:
        return [filled(N, H), filled(B, H), OFFSETS, 1, T, False, filled(5, H)]

    def steps(self) -> list[Any]:
        return [OFFSETS, B]

    def outputs(self) -> list[Any]:
        return [filled(N, self.G), filled(N, self.Hp), H, filled(N, self.Hp)]

    def sums(self) -> list[Any]:
        G, Ip, Hp, Pp = self.G, self.Ip, self.Hp, self.Pp
        into = (filled(G, Ip), filled(G, Pp), filled(G))
        direction = (filled(N, G), filled(N, I), filled(N, P), *into, filled(G * Ip), filled(N, Ip), H, P)
        direction += (filled(N, Hp), filled(N, Hp), filled(3, Hp))
        return [((*direction, filled(N, Pp), filled(N, Hp), filled(Pp, Hp)),), 2]

    def stack(self) -> list[Any]:
        weights = [filled(size) for width in (I, H) for size in (self.G * width, self.G * H, self.G)]
        states = [filled(LAYERS, 1, B, H) for _ in range(4)]
        return [filled(T, B, I), *states[:2], filled(T, B, H), *states[2:], tuple(weights), (False,), 2]

    def new_step(self) -> list[Any]:
        weights, biases = filled(self.G * (I + P) + H * self.Pp), filled(7 * self.Hp)
        states = (filled(B * P), filled(B * P), filled(B * self.Hp))
        sizes, room = np.array([I, H, P]), filled(B * 6 * self.Hp)
        return [filled(B, I), sizes, weights, biases, *states, room, filled(B, P), 2, True, 0.9]

    def pack(self) -> list[Any]:
        return [filled(4 * H, I), filled(self.G * self.Ip), 1]

    def unpack(self) -> list[Any]:
        return [filled(self.G, self.Ip), filled(4 * H, I), H]

    def functions(self) -> list[Any]:
        return [True, filled(9), filled(9)]


FUNCTIONS = [name for name in vars(Arguments) if not name.startswith("_")]


def of_other_kinds(value: Any) -> list[Callable[[], Any]]:
    """What may stand in the place of an argument, wrong or unusual."""
    anything = [
        lambda: None,
        lambda: "x",
        lambda: b"",
        lambda: 1.5,
        lambda: (),
        lambda: [],
        object,
        lambda: np.zeros(3),
    ]
    numbers = [-1, 0, 1, 2, 3, 5, 7, 64, 1 << 31, (1 << 62) + 8, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 80]
    ways = [*anything, *(lambda n=n: n for n in numbers)]
    if isinstance(value, tuple):
        ways += [lambda: value[:-1], lambda: value + value[-1:], lambda: value * 2, lambda: value * 40]
    if isinstance(value, np.ndarray):
        ways += [lambda c=change: c(value) for change in CHANGES]
    return ways


def unaligned(array: np.ndarray) -> np.ndarray:
    room = np.empty(array.nbytes + 1, np.uint8)[1:]
    return room.view(array.dtype).reshape(array.shape)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


CHANGES: list[Callable[[np.ndarray], Any]] = [
    lambda a: a[:-1],
    lambda a: a[:0],
    lambda a: a[..., :-1],
    lambda a: a[..., :0],
    lambda a: a[..., ::2],
    lambda a: a[..., ::-1],
    lambda a: a[::-1],
    lambda a: a[None],
    lambda a: a.reshape(-1),
    lambda a: a[0],
    lambda a: np.repeat(a, 2, axis=0)[::2],
    lambda a: np.concatenate([a, a[:1]]),
    lambda a: np.concatenate([a, a], axis=-1),
    lambda a: np.concatenate([a, a], axis=-1)[..., : a.shape[-1]],
    np.asfortranarray,
    lambda a: np.broadcast_to(a[:1], a.shape),
    lambda a: a.astype("float64"),
    lambda a: a.astype("float16"),
    lambda a: a.astype("int64"),
    lambda a: a.astype("int32"),
    lambda a: a.astype(complex),
    lambda a: a.astype(object),
    lambda a: a.astype(">f4"),
    lambda a: np.zeros(a.shape, "datetime64[s]"),
    lambda a: np.zeros(a.shape, [("a", "f4")]),
    lambda a: -a,
    lambda a: a * (1 << 62),
    unaligned,
    read_only,
    memoryview,
]


def changed(draw: Any, arguments: Any) -> Any:
    """One argument, at any depth, in another way."""
    if isinstance(arguments, (tuple, list)) and arguments and draw(st.integers(0, 9)):
        k = draw(st.integers(0, len(arguments) - 1))
        parts = list(arguments)
        parts[k] = changed(draw, parts[k])
        return type(arguments)(parts)
    way = draw(st.sampled_from(of_other_kinds(arguments)))
    try:
        with np.errstate(all="ignore"):
            return way()
    except (ValueError, TypeError, IndexError, np.exceptions.ComplexWarning):
        return arguments  # it has been changed before, and cannot be changed like this


OFFSETS_AT = {"forward": 1, "backward": 1, "previous": 2}
"""Where functions take the steps, which are made of offsets here."""


def call(found: Any, name: str, arguments: Any) -> None:
    at = OFFSETS_AT.get(name, len(arguments))
    if len(arguments) > at and isinstance(arguments[at], (np.ndarray, memoryview)):
        arguments = [*arguments[:at], found.module.steps(arguments[at], B), *arguments[at + 1 :]]
    chosen = [] if name == "steps" else [found.choice]
    result = getattr(found.module, name)(*chosen, *arguments)
    if name == "new_step":
        found.module.step(result)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_that_fit(name, kernels):
    for _ in range(2):
        call(kernels, name, getattr(Arguments(kernels.lanes_32), name)())


@pytest.mark.parametrize("instruction_set", AVAILABLE)
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=max(150, settings().max_examples))
@given(data=st.data())
def test_what_does_not_fit_is_refused(name, instruction_set, data):
    found = AVAILABLE[instruction_set]
    arguments = getattr(Arguments(found.lanes_32), name)()
    for _ in range(data.draw(st.integers(1, 3))):
        arguments = changed(data.draw, arguments)
    with suppress(ValueError, TypeError, BufferError, OverflowError):  # not SystemError: an error that was lost
        call(found, name, arguments if isinstance(arguments, (list, tuple)) else [arguments])


def test_no_cells(kernels):
    """Sizes that agree with each other, and that no layer has."""
    none, offsets = filled(0), np.array([0, 2, 4])
    direction = (filled(4, 3), none, none, none, filled(2, 0), filled(2, 0), filled(4, 0), False, None, None)
    with pytest.raises(ValueError, match="out of range"):
        call(kernels, "forward", (((*direction, 0, None, 0.0, None, None),), offsets, 1))
    states = (filled(2, 2, 0), filled(1, 1, 2, 0), filled(1, 1, 2, 0))
    with pytest.raises(ValueError, match="no cells"):
        call(kernels, "stack", (filled(2, 2, 3), None, None, *states, (none,) * 3, (False,), 1))


def test_an_output_wider_than_the_cell(kernels):
    """The work space of the sums is as wide as the cell."""
    wide = 300
    Hp, Ip, Pp = (-(-width // kernels.lanes_32) * kernels.lanes_32 for width in (H, I, wide))
    into = (filled(4 * Hp, Ip), filled(4 * Hp, Pp), filled(4 * Hp), filled(4 * Hp * Ip), filled(N, Ip))
    direction = (filled(N, 4 * Hp), filled(N, I), filled(N, wide), *into, H, wide, *[None] * 6)
    with pytest.raises(ValueError, match="wider"):
        call(kernels, "sums", ((direction,), 1))


def test_more_layers_than_a_call_takes(kernels):
    states, weights = (filled(400, 1, 2, 4) for _ in range(2)), (filled(1),) * 1200
    with pytest.raises(ValueError, match="too many layers"):
        call(kernels, "stack", (filled(2, 2, 3), None, None, filled(2, 2, 4), *states, weights, (False,), 1))


def test_sizes_whose_products_overflow(kernels):
    """Modulo 2**64 these are the sizes of the arrays."""
    arguments = Arguments(kernels.lanes_32)
    (direction,), threads = arguments.sums()
    for width in ((1 << 62) + H, 1 << 31):
        with pytest.raises(ValueError, match="out of range"):
            call(kernels, "sums", (((*direction[:8], width, width, *direction[10:]),), threads))
        with pytest.raises(ValueError, match="out of range"):
            call(
                kernels,
                "new_step",
                (filled(4, 1), np.array([1, width, width]), *[filled(0)] * 6, filled(4, 0), 1, False, 0.0),
            )


def test_sizes_that_change_after_they_were_checked(kernels):
    x, sizes, *others = Arguments(kernels.lanes_32).new_step()
    step = kernels.module.new_step(kernels.choice, x, sizes, *others)
    sizes[1] = 1 << 20
    kernels.module.step(step)


def test_a_batch_that_costs_no_memory(kernels):
    """Rows that stand in the same place: all work space would be of 2**64 bytes and more."""
    n, lanes = 1 << 60, kernels.lanes_32
    rows, weights, c = as_strided(filled(1, 1), (n, 1), (0, 0)), filled(4 * lanes), filled(0, 0)
    direction = (rows, weights, weights, weights, rows, c, rows, False, None, None, 1, None, 0.0, None, None)
    with pytest.raises(ValueError, match="too large"):
        call(kernels, "forward", ((direction,), kernels.module.steps(OFFSETS, B), 1))
    with pytest.raises(ValueError, match="out of range"):
        kernels.module.steps(np.array([0, n]), n)
    empty = np.empty((0, -(-(1 << 64) // 68), 1), "float32")
    with pytest.raises(ValueError, match="too large"):
        call(kernels, "stack", (empty, None, None, *[empty] * 3, (), (False,), 1))
    with pytest.raises(ValueError, match="too large"):
        call(kernels, "pack", (np.empty((0, 1 << 56), "float32"), filled(0), 2))


def test_no_steps(kernels):
    x, h_0, c_0, out, *others = Arguments(kernels.lanes_32).stack()
    with pytest.raises(ValueError, match="no steps"):
        call(kernels, "stack", (x[:0], h_0, c_0, out[:0], *others))


def test_arrays_of_ctypes(kernels):
    """They come without strides."""
    with pytest.raises(ValueError, match="another kind"):
        call(kernels, "functions", (False, (ctypes.c_float * 16)(), filled(16)))


def test_offsets_that_change_after_they_were_checked(kernels):
    class Changes:
        def __bool__(self):
            offsets[1:] = 1 << 40
            return False

    values, initial, offsets, first, last, _, into = Arguments(kernels.lanes_32).previous()
    offsets = offsets.copy()
    with suppress(ValueError):
        call(kernels, "previous", (values, initial, offsets, first, last, Changes(), into))
