"""One step through a stack of layers, compiled; see ``kernels`` for the layout.

Several threads may share a step by cells; they wait for each other after each layer.
"""

from typing import Any

from nplstm.engines.compiled.calls import withdraw
from nplstm.engines.compiled.forward_kernel import cell_forward
from nplstm.engines.compiled.products import multiply_4
from nplstm.engines.compiled.simd import lanes, load, store
from nplstm.engines.compiled.waiting import LINE, wait

__all__ = ["PARTS", "step"]

PARTS = 64
"""In which a share of a step is told: layers may have different numbers of panels."""


def step(operands: Any) -> None:
    """Take a share of one step.

    The operands, in this order:

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
    first, last : int
        The share's panels, in parts of each layer's.
    member, members : int
        Which of the threads that share the step this is, and how many they are.
    progress : (members * LINE,)
        For them to wait by: how often each has waited.
    taken : (1,)
        Counts the steps. Who was interrupted finds a step taken, or not.
    """
    given = withdraw(operands)
    x, weights, biases, sizes, old, new, c, gates, out = given[:9]
    first, last, member, members, progress, taken = given[9:]
    V, B, width = lanes(c), x.shape[0], x.shape[1]  # of what the layer reads
    w, b, h_at, below, c_at = 0, 0, 0, 0, 0
    for layer in range(len(sizes) - 1):
        H = sizes[layer + 1]
        panels = (H + V - 1) // V
        Hp = panels * V
        G = 4 * Hp
        hh = w + width * G
        for p in range(panels * first // PARTS, panels * last // PARTS):
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
        taken[0] += 1
