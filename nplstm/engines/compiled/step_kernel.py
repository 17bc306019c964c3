"""One step through a stack of layers, compiled; see ``kernels`` for the layout.

Several threads may share a step by cells. One leads; the others serve: they stay in compiled code from step to
step and look for the next, for about a millisecond, since to be woken for each would take longer than the step.

``signals`` is how they know of each other, a count a cache line: of the steps that were called for; for each other
member whether it serves; and for each how many steps it has taken.
"""

from typing import Any

from nplstm.engines.compiled._numba import njit
from nplstm.engines.compiled.forward_kernel import cell_forward
from nplstm.engines.compiled.products import multiply_4
from nplstm.engines.compiled.simd import lanes, load, store
from nplstm.engines.compiled.waiting import LINE, announce, comes, seen, wait

__all__ = ["lead", "serve"]


@njit(nogil=True)
def _step(
    x: Any,
    weights: Any,
    biases: Any,
    sizes: Any,
    old: Any,
    new: Any,
    c: Any,
    gates: Any,
    out: Any,
    first: Any,
    last: Any,
    member: Any,
    members: Any,
    progress: Any,
) -> None:
    """Take a share of one step: panels ``first`` to ``last``, in 64ths, of each layer."""
    V, B, width = lanes(c), x.shape[0], x.shape[1]  # of what the layer reads
    w, b, h_at, below, c_at = 0, 0, 0, 0, 0
    for layer in range(len(sizes) - 1):
        H = sizes[layer + 1]
        panels = (H + V - 1) // V
        Hp = panels * V
        G = 4 * Hp
        hh = w + width * G
        for p in range(panels * first // 64, panels * last // 64):
            g = p * 4 * V
            for k in range(4):
                bias = load(biases, b + g + k * V)
                for r in range(B):
                    store(gates, g + r * G + k * V, bias)
            if layer == 0:
                multiply_4(gates, g, G, V, x, 0, width, weights, w + p * width * 4 * V, width, B)
            else:
                multiply_4(gates, g, G, V, new, below, width, weights, w + p * width * 4 * V, width, B)
            multiply_4(gates, g, G, V, old, h_at, H, weights, hh + p * H * 4 * V, H, B)
            missing = max(0, (p + 1) * V - H)
            for r in range(B):
                place, h = c_at + r * Hp + p * V, h_at + r * H + p * V
                cell_forward(gates, c, c, new, g + r * G, place, 0, h, missing, False)
        if members > 1:
            wait(progress, member, members, progress[member * LINE] + 1)
        w, b, below, h_at, c_at, width = hh + H * G, b + G, h_at, h_at + B * H, c_at + B * Hp, H
    if member == 0:
        for r in range(B):
            for k in range(width):
                out[r, k] = new[below + r * width + k]


def lead(
    x: Any,
    weights: Any,
    biases: Any,
    sizes: Any,
    old: Any,
    new: Any,
    c: Any,
    gates: Any,
    out: Any,
    last: Any,
    members: Any,
    progress: Any,
    signals: Any,
    count: Any,
) -> Any:
    """Call for a step and take the first share of it; return whether someone has to be woken first.

    Parameters
    ----------
    x : (B, I)
    weights, biases
        Packed, of one layer after the other: W_ih, W_hh; b.
    sizes : (1 + layers,)
        I, and H of each layer.
    old, new : flat
        h before and after the step, (B, H) of one layer after the other.
    c : flat
        (B, Hp) of one layer after the other; overwritten.
    gates : (B, 4 * the largest Hp)
        Work space.
    out : (B, H)
        Receives the last layer's h.
    last
        The share's panels end here, in 64ths of a layer's.
    members, progress
        How many threads share the step, and zeros for them to wait by.
    signals : (2 * members * LINE,)
        See above.
    count
        Of steps, this one included.
    """
    if members > 1:
        announce(signals, 0, count)
        for member in range(1, members):
            if seen(signals, member * LINE) == 0:
                return True
    _step(x, weights, biases, sizes, old, new, c, gates, out, 0, last, 0, members, progress)
    return False


def serve(
    x: Any,
    weights: Any,
    biases: Any,
    sizes: Any,
    even: Any,
    odd: Any,
    c: Any,
    gates: Any,
    out: Any,
    first: Any,
    last: Any,
    member: Any,
    members: Any,
    progress: Any,
    signals: Any,
    looks: Any,
) -> None:
    """Take a share of each step that is called for, until none has come for some looks.

    ``even`` and ``odd`` are what ``lead`` reads and writes, in turns, as ``old`` and ``new``.
    """
    taken = (members + member) * LINE
    announce(signals, member * LINE, 1)
    while True:
        count = signals[taken] + 1
        if not comes(signals, 0, count, looks):
            announce(signals, member * LINE, 0)
            if seen(signals, 0) < count:  # who calls from here on sees that no one serves
                return
            announce(signals, member * LINE, 1)
        old, new = (even, odd) if count % 2 == 1 else (odd, even)
        _step(x, weights, biases, sizes, old, new, c, gates, out, first, last, member, members, progress)
        announce(signals, taken, count)
