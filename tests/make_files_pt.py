"""Save small files in each of PyTorch's formats, with what is in them beside: ``files/pt/``.

Run ``python tests/make_files_pt.py`` in an environment with torch. The files that are there were made by torch
2.13.0 and NumPy 2.4.6; the tests that read them need no torch.
"""

import copy
import sys
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch

FOLDER = Path(__file__).parent / "files" / "pt"
T, B, I, H, P = 5, 3, 2, 5, 3
NAMES = (
    "float16 bfloat16 float32 float64 complex64 complex128 bool uint8 int8 int16 int32 int64 uint16 uint32 uint64"
)


class Model(torch.nn.Module):
    """An LSTM among other things."""

    def __init__(self, lstm, width, dtype=torch.float32):
        super().__init__()
        self.encoder = lstm
        self.head = torch.nn.Linear(width, 2, dtype=dtype)
        self.register_buffer("scale", torch.tensor(0.5, dtype=dtype))

    def forward(self, x):
        return self.head(self.encoder(x)[0]) * self.scale


def full_model(dtype):
    """A model whose LSTM has layers, directions and a projection."""
    lstm = torch.nn.LSTM(I, H, num_layers=2, bidirectional=True, proj_size=P, dtype=dtype)
    return Model(lstm, 2 * P, dtype)


def results(lstm, dtype):
    """Inputs and outputs of an LSTM."""
    x, h, c = (torch.randn(*s, dtype=dtype) for s in ((T, B, I), (4, B, P), (4, B, H)))
    with torch.no_grad():
        output, (h_n, c_n) = lstm(x, (h, c))
    arrays = dict(x=x, h_0=h, c_0=c, output=output, h_n=h_n, c_n=c_n)
    return {f"run/{name}": array for name, array in arrays.items()}


def tensors():
    """Each element type, and each way in which a tensor lies in its storage."""
    numbers = torch.arange(12).reshape(3, 4)
    found = {
        name: (numbers - 5 if name[0] in "fci" else numbers).to(getattr(torch, name)) for name in NAMES.split()
    }
    base = torch.randn(4, 6)
    found |= {
        "transposed": base.T,
        "part": base[1:3, 1::2],
        "same storage": base[3],
        "expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
        "negated": torch.randn(3, dtype=torch.complex64).conj().imag,
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "buffer": torch.nn.Buffer(torch.randn(2)),
    }
    found["with attributes"] = torch.nn.Parameter(torch.randn(3))
    found["with attributes"].note = "a note"
    return found


def as_numpy(value):
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().resolve_conj().resolve_neg()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def save_big_endian(path):
    """Save as a machine with the other byte order does; torch itself reads it back here."""
    found = {name: tensor for name, tensor in tensors().items() if name in NAMES and not name.startswith("uint")}
    swapped = copy.deepcopy(found)
    for tensor in swapped.values():
        tensor.untyped_storage().byteswap(tensor.dtype)
    with mock.patch.object(sys, "byteorder", "big"):
        torch.save(swapped, path)
    assert all(torch.equal(tensor, found[name]) for name, tensor in torch.load(path).items())
    return found


def save_checkpoint(path):
    """Save what training scripts save."""
    model = torch.nn.DataParallel(Model(torch.nn.LSTM(I, H), H))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(T, B, I)).sum().backward()
    optimizer.step()
    cell = torch.nn.LSTMCell(I, H)
    checkpoint = {
        "epoch": 3,
        "model_state": model.state_dict(),
        "cell": cell.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": [1.5, np.float64(0.25)],
        "note": "some text",
        "seen": {1, 2},
        "numpy": {"array": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6).reshape(2, 3))},
        "rng": torch.arange(16, dtype=torch.uint8),
    }
    torch.save(checkpoint, path)
    expected = {f"model_state.{name}": value for name, value in model.state_dict().items()}
    expected |= {f"cell.{name}": value for name, value in cell.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        expected |= {f"optimizer.state.{number}.{name}": value for name, value in state.items()}
    expected |= {f"numpy.{name}": value for name, value in checkpoint["numpy"].items()} | {
        "rng": checkpoint["rng"]
    }
    return expected


def leave_out_paths(path):
    """Take the tables out that tell stack traces where the source files were on this machine."""
    with zipfile.ZipFile(path) as old:
        entries = {info: old.read(info) for info in old.infolist() if not info.filename.endswith(".debug_pkl")}
    with zipfile.ZipFile(path, "w") as new:
        for info, data in entries.items():
            info.extra = b""
            new.writestr(info, data)
    torch.jit.load(path)


def keep(name, values):
    """Save what is in a file, and what its LSTM computes, beside it."""
    made_by = np.array(f"torch {torch.__version__}, NumPy {np.__version__}")
    arrays = {key: as_numpy(value) for key, value in values.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **{"made by": made_by}, **arrays)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # TorchScript and the old format are no longer recommended
    old = dict(_use_new_zipfile_serialization=False)
    for name, dtype, options in (("zip", torch.float32, {}), ("legacy", torch.float64, old)):
        model = full_model(dtype)
        torch.save(model.state_dict(), FOLDER / f"{name}.pt", **options)
        keep(name, {**model.state_dict(), **results(model.encoder, dtype)})
    for name, dtype in (("scripted", torch.float64), ("traced", torch.float32)):
        model = full_model(dtype)
        example = torch.randn(T, B, I, dtype=dtype)
        module = torch.jit.script(model) if name == "scripted" else torch.jit.trace(model, example)
        torch.jit.save(module, FOLDER / f"{name}.pt")
        leave_out_paths(FOLDER / f"{name}.pt")
        keep(name, {**model.state_dict(), **results(model.encoder, dtype)})
    for name, options in (("types", {}), ("types_legacy", old)):
        found = tensors()
        torch.save(found, FOLDER / f"{name}.pt", **options)
        keep(name, found)
    keep("big_endian", save_big_endian(FOLDER / "big_endian.pt"))
    keep("checkpoint", save_checkpoint(FOLDER / "checkpoint.pt"))
    torch.save(torch.arange(3.0), FOLDER / "tensor.pt")
    keep("tensor", {"tensor": torch.arange(3.0)})


if __name__ == "__main__":
    main()
