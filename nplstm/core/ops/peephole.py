"""Peepholes: what the cell state adds to the pre-activations of k gates.

Diagonal (Gers & Schmidhuber 2000): weights (kH,), each gate reads its own cell only. Full (Graves 2013 writes W_c·
as matrices): weights (kH, H), each gate reads all cells.
"""

from nplstm._typing import Array


def peephole_forward(c: Array, weight: Array) -> Array:
    """Return (B, kH) from ``c`` (B, H) and ``weight`` (kH,) or (kH, H)."""
    if weight.ndim == 2:
        return c @ weight.T
    return (c[:, None, :] * weight.reshape(len(weight) // c.shape[1], c.shape[1])).reshape(len(c), len(weight))


def peephole_backward(grad_a: Array, weight: Array, hidden_size: int) -> Array:
    """Return d loss / d c (B, H) from ``grad_a`` (B, kH)."""
    if weight.ndim == 2:
        return grad_a @ weight
    return (grad_a * weight).reshape(len(grad_a), len(weight) // hidden_size, hidden_size).sum(axis=1)


def peephole_weight_backward(grad_a: Array, c: Array, weight: Array) -> Array:
    """Return d loss / d weight, summed over rows: ``grad_a`` (N, kH), ``c`` (N, H)."""
    if weight.ndim == 2:
        return grad_a.T @ c
    by_gate = grad_a.reshape(len(c), len(weight) // c.shape[1], c.shape[1])
    return (by_gate * c[:, None, :]).sum(axis=0).reshape(len(weight))
