"""What ``torch.nn.LSTM`` gives for a case: values and gradients of everything, as NumPy arrays.

Imports torch: used by ``make_golden.py`` and by the tests that run where torch is installed.
"""

import numpy as np
import torch
from cases import B, Case, H, I, P
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Arrays = dict[str, np.ndarray]


def run_lstm(case: Case, seed: int) -> Arrays:
    """Run one case; the result holds inputs, parameters, cotangents, outputs and gradients by name."""
    torch.manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    layer = torch.nn.LSTM(I, H, **case.options, dtype=dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    batch = () if case.layout == "unbatched" else (B,)
    shape = (case.steps, *batch, I)
    if case.batch_first and batch:
        shape = (B, case.steps, I)
    leaves = {"input": torch.randn(shape, dtype=dtype)}
    if case.states:
        leaves["h_0"] = torch.randn((count, *batch, layer.proj_size or H), dtype=dtype)
        leaves["c_0"] = torch.randn((count, *batch, H), dtype=dtype)
    for leaf in leaves.values():
        leaf.requires_grad_()
    hx = (leaves["h_0"], leaves["c_0"]) if case.states else None
    x = leaves["input"]
    if case.lengths is not None:
        x = pack_padded_sequence(
            x, torch.tensor(case.lengths), case.batch_first, enforce_sorted=case.layout == "packed"
        )
    output, (h_n, c_n) = layer(x, hx)
    if case.lengths is not None:
        output, _ = pad_packed_sequence(output, case.batch_first, total_length=case.steps)
    outputs = {"output": output, "h_n": h_n, "c_n": c_n}
    cotangents = {f"grad_{name}": torch.randn_like(value) for name, value in outputs.items()}
    sum((value * cotangents[f"grad_{name}"]).sum() for name, value in outputs.items()).backward()
    arrays = leaves | outputs | cotangents
    arrays |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    for name, parameter in layer.named_parameters():
        arrays |= {f"parameter.{name}": parameter, f"grad_parameter.{name}": parameter.grad}
    return {name: value.detach().numpy().copy() for name, value in arrays.items()}


def run_cell(dtype: str, bias: bool, batched: bool, seed: int) -> Arrays:
    """One step of ``torch.nn.LSTMCell``."""
    torch.manual_seed(seed)
    kind = getattr(torch, dtype)
    cell = torch.nn.LSTMCell(I, H, bias=bias, dtype=kind)
    batch = (B,) if batched else ()
    leaves = {name: torch.randn((*batch, n), dtype=kind) for name, n in (("input", I), ("h_0", H), ("c_0", H))}
    for leaf in leaves.values():
        leaf.requires_grad_()
    h, c = cell(leaves["input"], (leaves["h_0"], leaves["c_0"]))
    cotangents = {"grad_h": torch.randn_like(h), "grad_c": torch.randn_like(c)}
    ((h * cotangents["grad_h"]).sum() + (c * cotangents["grad_c"]).sum()).backward()
    arrays = leaves | {"h": h, "c": c} | cotangents
    arrays |= {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    for name, parameter in cell.named_parameters():
        arrays |= {f"parameter.{name}": parameter, f"grad_parameter.{name}": parameter.grad}
    return {name: value.detach().numpy().copy() for name, value in arrays.items()}


def run_training(steps: int, seed: int) -> Arrays:
    """Train a small model (2-layer bidirectional LSTM with projection, linear head) with Adam in float64."""
    torch.manual_seed(seed)
    lstm = torch.nn.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=P, dtype=torch.float64)
    head = torch.nn.Linear(2 * P, 3, dtype=torch.float64)
    parameters = {f"lstm.{n}": p for n, p in lstm.named_parameters()}
    parameters |= {f"head.{n}": p for n, p in head.named_parameters()}
    arrays = {f"parameter.{name}": p.detach().numpy().copy() for name, p in parameters.items()}
    inputs = torch.randn((steps, 7, B, I), dtype=torch.float64)
    targets = torch.randint(0, 3, (steps, 7, B))
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    losses = []
    for x, y in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(lstm(x)[0]).reshape(-1, 3), y.reshape(-1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    arrays |= {"inputs": inputs.numpy(), "targets": targets.numpy(), "losses": np.array(losses)}
    return arrays | {f"trained.{name}": p.detach().numpy().copy() for name, p in parameters.items()}


OPTIMIZERS = {
    "sgd": ("SGD", dict(lr=0.1)),
    "sgd_momentum": ("SGD", dict(lr=0.1, momentum=0.9)),
    "sgd_everything": ("SGD", dict(lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True, maximize=True)),
    "sgd_dampening": ("SGD", dict(lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.01)),
    "adam": ("Adam", dict(lr=0.1)),
    "adam_everything": ("Adam", dict(lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1, amsgrad=True)),
    "adamw": ("AdamW", dict(lr=0.1)),
    "adamw_everything": ("AdamW", dict(lr=0.1, weight_decay=0.2, amsgrad=True, maximize=True)),
}


def run_optimizer(name: str, seed: int, updates: int = 6) -> Arrays:
    """Some updates of one parameter with given gradients; at update 3 there is none."""
    torch.manual_seed(seed)
    kind, options = OPTIMIZERS[name]
    parameter = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    arrays = {"start": parameter.detach().numpy().copy()}
    gradients = torch.randn((updates, 3, 2), dtype=torch.float64)
    optimizer = getattr(torch.optim, kind)([parameter], **options)
    path = []
    for k, gradient in enumerate(gradients):
        parameter.grad = None if k == 3 else gradient
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return arrays | {"gradients": gradients.numpy(), "path": np.stack(path)}


def run_losses(seed: int) -> Arrays:
    """Losses and their gradients, for mean and sum."""
    torch.manual_seed(seed)
    functional = torch.nn.functional
    logits = torch.randn((5, 4), dtype=torch.float64) * 3
    classes = torch.tensor([0, 3, -100, 1, 1])
    prediction, target = torch.randn((2, 3, 5), dtype=torch.float64) * 2
    arrays = {"logits": logits, "classes": classes, "prediction": prediction, "target": target}
    for reduction in ("mean", "sum"):
        losses = {
            "cross_entropy": (logits, lambda x: functional.cross_entropy(x, classes, reduction=reduction)),
            "mse_loss": (prediction, lambda x: functional.mse_loss(x, target, reduction=reduction)),
            "huber_loss": (prediction, lambda x: functional.huber_loss(x, target, reduction=reduction, delta=0.7)),
        }
        for name, (point, function) in losses.items():
            leaf = point.clone().requires_grad_()
            loss = function(leaf)
            loss.backward()
            arrays |= {f"{name}.{reduction}": loss.detach(), f"{name}.{reduction}.grad": leaf.grad}
    return {name: value.numpy() for name, value in arrays.items()}
