"""Training: two layers, losses, optimizers, gradient clipping, with torch's semantics and defaults.

Parameters and gradients are mappings of name to array, on NumPy and on CuPy.
"""

from nplstm.training.clipping import clip_grad_norm, clip_grad_value
from nplstm.training.embedding import Embedding, EmbeddingTape
from nplstm.training.linear import LayerGradients, Linear, LinearTape
from nplstm.training.losses import cross_entropy, huber_loss, mse_loss
from nplstm.training.optimizers import SGD, Adam, AdamW, Optimizer

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Embedding",
    "EmbeddingTape",
    "LayerGradients",
    "Linear",
    "LinearTape",
    "Optimizer",
    "clip_grad_norm",
    "clip_grad_value",
    "cross_entropy",
    "huber_loss",
    "mse_loss",
]
