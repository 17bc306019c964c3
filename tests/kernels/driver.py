"""Cases for the program run_case.c: its input, and its results compared with those of the plain time loop."""

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import assert_close

import nplstm

__all__ = ["CASES", "RTOL", "Case", "compare", "run_program"]

RTOL = {"float32": 1e-5, "float64": 2e-13}  # sums of some hundred numbers, in another order


class Case(NamedTuple):
    """A layer and what it runs on. ``lengths``: by sequence, the longest first, or steps for all of them."""

    B: int
    I: int
    H: int
    lengths: Any
    directions: int = 1
    P: int = 0
    peephole: bool = False
    clip: float = 0.0
    threads: int = 2

    @property
    def steps(self) -> int:
        return self.lengths if isinstance(self.lengths, int) else max(self.lengths)


CASES = [
    Case(1, 1, 1, 1),
    Case(1, 5, 130, 20),
    Case(1, 130, 64, 9, 2),
    Case(2, 3, 8, 9, clip=0.5),
    Case(3, 20, 37, [11, 4, 0], 2),
    Case(3, 300, 16, 5),
    Case(7, 8, 17, [7, 7, 5, 3, 3, 1, 0], peephole=True),
    Case(13, 37, 64, 6, 2, threads=5),
    Case(32, 7, 37, 8, threads=3),
    Case(16, 3, 130, sorted(range(5, 21), reverse=True), 2, threads=3),
    Case(1, 4, 21, 12, P=5),
    Case(5, 4, 21, [9, 9, 8, 2, 1], 2, P=17, peephole=True, clip=0.9),
    Case(32, 9, 66, 7, P=33, threads=4),
    Case(2, 3, 270, 5),
]


def lstm_of(case: Case, dtype: str) -> nplstm.LSTM:
    spec = nplstm.CellSpec(peephole="diagonal" if case.peephole else None, clip=case.clip or None)
    options = dict(bidirectional=case.directions == 2, proj_size=case.P, cell=spec, dtype=dtype)
    return nplstm.LSTM(case.I, case.H, **options, rng=0)


def run_program(program: list[str], case: Case, dtype: str, folder: Path) -> dict[str, np.ndarray]:
    """Run the program on a case; return its results by name, those of all directions in one array each."""
    given, results = folder / "case", folder / "results"
    given.write_bytes(_bytes_of(case, dtype))
    # it frees nothing: the end of the process does
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [*program, given, results]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{case}, {dtype}: exit status {done.returncode}\n{done.stderr}")
    return _results_of(case, dtype, results.read_bytes())


def compare(found: dict[str, np.ndarray], case: Case, dtype: str) -> None:
    """Compare with the plain time loop: values, gradients and, where there is one, the stream."""
    expected = _expected(case, dtype)
    if "stream" in found:
        expected["stream"] = expected["output"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, RTOL[dtype], f"{case}: {name}")


def _drawn(case: Case, dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([case.B, case.I, case.H, case.steps])
    P, D, B, T = case.P or case.H, case.directions, case.B, case.steps
    shapes = {"x": (T, B, case.I), "grad_out": (T, B, D * P)}
    shapes |= {
        name: (D, B, width) for name, width in (("h_0", P), ("c_0", case.H), ("grad_h", P), ("grad_c", case.H))
    }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def _rows(case: Case) -> np.ndarray:
    """Whether there is a row at each step of each sequence: (T, B)."""
    return np.arange(case.steps)[:, None] < np.broadcast_to(case.lengths, case.B)


def _expected(case: Case, dtype: str) -> dict[str, np.ndarray]:
    lstm, drawn, there = lstm_of(case, dtype), _drawn(case, dtype), _rows(case)
    lengths = None if isinstance(case.lengths, int) else case.lengths
    with nplstm.use_engines("plain"):
        tape = lstm.record(drawn["x"], (drawn["h_0"], drawn["c_0"]), lengths=lengths)
        grads = tape.backward(drawn["grad_out"], (drawn["grad_h"], drawn["grad_c"]))
    found = {"output": tape.output[there], "c_n": tape.c_n, "x": grads.input[there], "h_0": grads.h_0}
    return found | {"c_0": grads.c_0} | {n: g for n, g in grads.parameters.items() if not n.startswith("bias_hh")}


def _suffixes(case: Case) -> list[str]:
    return ["_l0", "_l0_reverse"][: case.directions]


def _bytes_of(case: Case, dtype: str) -> bytes:
    lstm, drawn, there = lstm_of(case, dtype), _drawn(case, dtype), _rows(case)
    P, parameters = case.P or case.H, lstm.parameters
    stream = case.directions == 1 and isinstance(case.lengths, int)
    sizes = [np.dtype(dtype).itemsize * 8, case.directions, case.I, case.H, P, case.B, case.steps, case.threads]
    parts = [np.array([*sizes, case.peephole, stream], "int64"), np.float64(case.clip)]
    parts += [np.cumsum([0, *there.sum(axis=1)], dtype="int64"), drawn["x"][there]]
    for d, suffix in enumerate(_suffixes(case)):
        parts += [np.int64(d), parameters["weight_ih" + suffix], parameters["weight_hh" + suffix]]
        parts += [parameters["bias_ih" + suffix] + parameters["bias_hh" + suffix]]
        if case.peephole:
            parts += [parameters["weight_ch" + suffix]]
        if case.P:
            parts += [parameters["weight_hr" + suffix], parameters["weight_hr" + suffix].T]
        parts += [drawn["h_0"][d], drawn["c_0"][d], drawn["grad_out"][there][:, d * P : (d + 1) * P]]
        parts += [drawn["grad_h"][d], drawn["grad_c"][d]]
    return b"".join(part.tobytes() for part in parts)


class _Reader:
    """Arrays one after the other."""

    def __init__(self, content: bytes, dtype: str) -> None:
        self.vector = int(np.frombuffer(content, "int64", 1)[0])
        self._rest = np.frombuffer(content, dtype, offset=8)

    def padded(self, width: int) -> int:
        return -(-width // self.vector) * self.vector

    def take(self, rows: int, width: int) -> np.ndarray:
        part, self._rest = self._rest[: rows * width], self._rest[rows * width :]
        return part.reshape(rows, width)

    def take_panels(self, rows: int, width: int) -> np.ndarray:
        """Without what fills up the last panel, which has to be zero or without a meaning."""
        return self.take(rows, self.padded(width))[:, :width]

    def take_gates(self, H: int, width: int) -> np.ndarray:
        """Rows of gates by panel of cells, in torch's order."""
        values = self.take(4 * self.padded(H), width)
        return (
            values.reshape(-1, 4, self.vector, width)
            .swapaxes(0, 1)
            .reshape(4, -1, width)[:, :H]
            .reshape(4 * H, width)
        )

    @property
    def at_end(self) -> bool:
        return not self._rest.size


def _results_of(case: Case, dtype: str, content: bytes) -> dict[str, np.ndarray]:
    reader, there = _Reader(content, dtype), _rows(case)
    B, I, H, P, N = case.B, case.I, case.H, case.P or case.H, int(there.sum())
    directions: list[dict[str, np.ndarray]] = []
    found: dict[str, np.ndarray] = {}
    for suffix in _suffixes(case):
        direction = {"output": reader.take(N, P), "c_n": reader.take_panels(B, H), "x": reader.take_panels(N, I)}
        direction |= {"h_0": reader.take_panels(B, P), "c_0": reader.take_panels(B, H)}
        directions.append(direction)
        found["weight_ih" + suffix] = reader.take_gates(H, reader.padded(I))[:, :I]
        found["weight_hh" + suffix] = reader.take_gates(H, reader.padded(P))[:, :P]
        found["bias_ih" + suffix] = reader.take_gates(H, 1)[:, 0]
        if case.peephole:
            found["weight_ch" + suffix] = reader.take_panels(3, H).reshape(-1)
        if case.P:
            found["weight_hr" + suffix] = reader.take_panels(reader.padded(P), H)[:P]
    found["output"] = np.concatenate([direction["output"] for direction in directions], axis=1)
    found["x"] = sum((direction["x"] for direction in directions[1:]), directions[0]["x"])
    found |= {name: np.stack([direction[name] for direction in directions]) for name in ("c_n", "h_0", "c_0")}
    if not reader.at_end:
        found["stream"] = reader.take(N, P)
    assert reader.at_end
    return found
