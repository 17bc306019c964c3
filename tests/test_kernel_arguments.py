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
    """Arguments that fit, for vectors of so many float32: layers with peepholes, a bound and a projection."""

    def __init__(self, lanes: int) -> None:
        self.Hp, self.Ip, self.Pp = (-(-width // lanes) * lanes for width in (H, I, P))
        self.wide = -(-2 * P // lanes) * lanes
        self.G = 4 * self.Hp

    def layers(self, back: bool = False) -> list[Any]:
        def direction(width: int, panels: int) -> tuple[Any, ...]:
            own = filled(self.G * (panels if back else width)), filled(self.G * (self.Pp if back else P))
            return *own, filled(self.G), filled(3, self.Hp), filled(P * self.Hp if back else H * self.Pp)

        first, second = direction(I, self.Ip), direction(2 * P, self.wide)
        return [(first, first, second, second), 2, I, H, P, 0.9, back]

    def _pass(self) -> list[Any]:
        states = (filled(LAYERS, 2, B, P), filled(LAYERS, 2, B, H))
        return [(filled(N, I),) * 2, *states, (filled(N, P), filled(N, P)), (False, True), OFFSETS, self._kept()]

    def _kept(self) -> np.ndarray:
        return filled(N * 2 * (LAYERS * 5 * self.Hp + (LAYERS - 1) * P))

    def forward(self) -> list[Any]:
        return [self.layers(), *self._pass(), filled(LAYERS, 2, B, P), filled(LAYERS, 2, B, H), 2]

    def backward(self) -> list[Any]:
        states = (filled(LAYERS, 2, B, P), filled(LAYERS, 2, B, H))
        layers = [
            (filled(4 * H, width), filled(4 * H, P), filled(4 * H), None, filled(3, H), filled(P, H))
            for width in (I, I, 2 * P, 2 * P)
        ]
        grads = (filled(N, self.Ip), filled(N, self.Ip)), tuple(layers)
        return [self.layers(back=True), *self._pass(), (filled(N, P), filled(N, P)), *states, *grads, 2]

    def steps(self) -> list[Any]:
        return [OFFSETS, B]

    def new_step(self) -> list[Any]:
        weights, biases = filled(self.G * (I + P) + H * self.Pp), filled(7 * self.Hp)
        states = (filled(B * P), filled(B * P), filled(B * self.Hp))
        sizes, room = np.array([I, H, P]), filled(B * 6 * self.Hp)
        return [filled(B, I), sizes, weights, biases, *states, room, filled(B, P), 2, True, 0.9]

    def pack(self) -> list[Any]:
        return [filled(4 * H, I), filled(self.G * self.Ip), 1]

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


def call(found: Any, name: str, arguments: Any) -> None:
    """Call a function; what other functions of the module check beforehand is made of their arguments here."""
    parts, of_layers = list(arguments), name in ("forward", "backward")
    if of_layers and len(parts) > 6 and isinstance(parts[6], (np.ndarray, memoryview)):
        parts[6] = found.module.steps(parts[6], B)
    if of_layers and parts and isinstance(parts[0], list):
        parts[0] = found.module.layers(found.choice, *parts[0])
    chosen = [] if of_layers or name == "steps" else [found.choice]
    result = getattr(found.module, name)(*chosen, *parts)
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
    none = filled(0)
    with pytest.raises(ValueError, match="out of range"):
        call(kernels, "layers", (((none, none, none, None, None),), 1, 3, 0, 0, 0.0, False))


def test_an_output_wider_than_the_cell(kernels):
    """The work space of the sums is as wide as the cell."""
    arguments, wide = Arguments(kernels.lanes_32), 300
    weights = (filled(arguments.G * I), filled(arguments.G * wide), filled(arguments.G), None)
    for weight_hr in (None, filled(H * -(-wide // kernels.lanes_32) * kernels.lanes_32)):
        with pytest.raises(ValueError, match="another width"):
            call(kernels, "layers", (((*weights, weight_hr),), 1, I, H, wide, 0.0, False))


def test_more_layers_than_a_call_takes(kernels):
    with pytest.raises(ValueError, match="too many layers"):
        call(kernels, "layers", (((filled(1),) * 5,) * 400, 1, I, H, P, 0.0, False))


def test_sizes_whose_products_overflow(kernels):
    """Modulo 2**64 these are the sizes of the arrays."""
    weights, D, I, *_ = Arguments(kernels.lanes_32).layers()
    for width in ((1 << 62) + H, 1 << 31):
        with pytest.raises(ValueError, match="out of range"):
            call(kernels, "layers", (weights, D, I, width, width, 0.0, False))
        with pytest.raises(ValueError, match="out of range"):
            call(
                kernels,
                "new_step",
                (filled(4, 1), np.array([1, width, width]), *[filled(0)] * 6, filled(4, 0), 1, False, 0.0),
            )


def test_weights_of_the_other_way(kernels):
    """Those of the backward pass are larger, and in another order."""
    arguments = Arguments(kernels.lanes_32)
    for name, back in (("forward", True), ("backward", False)):
        _, *others = getattr(arguments, name)()
        with pytest.raises(ValueError, match="other way"):
            call(kernels, name, [arguments.layers(back), *others])


def test_layers_of_different_cells(kernels):
    weights, *others = Arguments(kernels.lanes_32).layers()
    for place in (3, 4):
        other = tuple(None if k == place else part for k, part in enumerate(weights[1]))
        with pytest.raises(ValueError, match="different cells"):
            call(kernels, "layers", ((weights[0], other, *weights[2:]), *others))


def test_weights_live_as_long_as_the_layers(kernels):
    """The arrays are held; without that, this would read memory that has been used for something else."""
    layers, *others = Arguments(kernels.lanes_32).forward()
    held = kernels.module.layers(kernels.choice, *layers)
    call(kernels, "forward", [held, *others])
    expected = others[3][0].copy()
    del layers
    other = [filled(1 << 16) for _ in range(64)]
    call(kernels, "forward", [held, *others])
    np.testing.assert_array_equal(others[3][0], expected)
    del other


def test_sizes_that_change_after_they_were_checked(kernels):
    x, sizes, *others = Arguments(kernels.lanes_32).new_step()
    step = kernels.module.new_step(kernels.choice, x, sizes, *others)
    sizes[1] = 1 << 20
    kernels.module.step(step)


def test_a_batch_that_costs_no_memory(kernels):
    """Rows that stand in the same place: all work space would be of 2**64 bytes and more."""
    n, (layers, _, h_0, c_0, *others) = 1 << 59, Arguments(kernels.lanes_32).forward()
    many = as_strided(filled(1, I), (n, I), (0, 4))
    with pytest.raises(ValueError, match="too large"):
        call(kernels, "forward", [layers, (many, many), h_0, c_0, *others])
    with pytest.raises(ValueError, match="out of range"):
        kernels.module.steps(np.array([0, n]), n)
    with pytest.raises(ValueError, match="too large"):
        call(kernels, "pack", (np.empty((0, 1 << 56), "float32"), filled(0), 2))


def test_states_that_cost_no_memory(kernels):
    """Sequences without steps, of which a batch has as many as one likes."""
    lanes, steps, states = kernels.lanes_32, kernels.module.steps(np.array([0]), 1 << 33), [filled(0)] * 4
    for H, problem in ((1 << 10, "another size"), (1 << 16, "too large")):
        weights = (filled(4 * H), filled(4 * H), filled(4 * H), None, filled(H * lanes))
        layers = kernels.module.layers(kernels.choice, (weights,), 1, 1, H, 1, 0.0, False)
        rows = (filled(0, 1),)
        with pytest.raises(ValueError, match=problem):
            call(kernels, "forward", [layers, rows, *states[:2], rows, (False,), steps, None, *states[2:], 1])


def test_arrays_of_ctypes(kernels):
    """They come without strides."""
    with pytest.raises(ValueError, match="another kind"):
        call(kernels, "functions", (False, (ctypes.c_float * 16)(), filled(16)))


def test_offsets_that_change_after_they_were_checked(kernels):
    class Changes:
        def __bool__(self):
            offsets[1:] = 1 << 40
            return False

    layers, x, h_0, c_0, out, _, offsets, *others = Arguments(kernels.lanes_32).forward()
    offsets = offsets.copy()
    call(kernels, "forward", [layers, x, h_0, c_0, out, (Changes(), False), offsets, *others])
