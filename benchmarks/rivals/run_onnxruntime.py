"""onnxruntime in a worker's process: its LSTM operator on the CPU provider, inference only.

There are two ways to call a session, by a dict of arrays and by binding buffers once; both are offered, but for a
step in real time, where the second was faster at all sizes.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import cycle
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from ..common.cases import Case, Prepared
from .worker import Unavailable

_GATES = (0, 3, 1, 2)  # torch's i, f, g, o in the operator's order i, o, f, c

_threads = 1


def start(threads: int) -> dict[str, str]:
    """Keep the number of threads for the sessions to come, and say what runs."""
    global _threads  # noqa: PLW0603  onnxruntime has it in each session's options
    _threads = threads
    return {name: version(name) for name in ("onnxruntime", "onnx")}


def instructions() -> dict[str, str]:
    """Return nothing: onnxruntime does not tell what it uses, and it cannot be told what to use."""
    return {}


def prepare(case: Case) -> dict[str, Prepared]:
    """Make the session and its input."""
    if case.task == "training":
        raise Unavailable("onnxruntime's LSTM operator has no backward")
    options = ort.SessionOptions()
    options.intra_op_num_threads = _threads
    session = ort.InferenceSession(model(case), options, providers=["CPUExecutionProvider"])
    return (_step if case.task == "step" else _inference)(session, case)


def model(case: Case) -> bytes:
    """Build one LSTM node for each layer; between two of them the directions are put side by side."""
    streams, D, T = case.task == "step", case.directions, 1 if case.task == "step" else case.T
    weights, nodes, below = case.weights(), [], "x"
    constants = {"reshaped": np.array([0, 0, -1])} if case.layers > 1 else {}
    for layer in range(case.layers):
        constants |= {
            f"{name}{layer}": array for name, array in zip("WRB", _packed(weights, layer, D), strict=True)
        }
        inputs = [below, f"W{layer}", f"R{layer}", f"B{layer}", "lengths" if case.padded else ""]
        inputs += ["h_0", "c_0"] if streams else []
        outputs = [f"y{layer}", f"h{layer}", f"c{layer}"]
        direction = "bidirectional" if D == 2 else "forward"
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=case.H, direction=direction))
        if layer + 1 < case.layers:
            below = f"x{layer + 1}"
            nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"t{layer}", "reshaped"], [below]))
    state = [D, case.B, case.H]
    inputs = {"x": [T, case.B, case.H]} | ({"h_0": state, "c_0": state} if streams else {})
    outputs = {f"y{case.layers - 1}": [T, D, case.B, case.H]}
    outputs |= {f"{name}{layer}": state for layer in range(case.layers) for name in "hc"}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    if case.padded:
        values.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [case.B]))
    graph = helper.make_graph(
        nodes,
        "lstm",
        values,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    made.ir_version = 10  # what opset 22 came with: a newer onnx than the runtime would name a newer one
    return made.SerializeToString()


def _packed(weights: dict[str, np.ndarray], layer: int, D: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return W (D, 4H, I), R (D, 4H, H) and B (D, 8H) of a layer."""
    parts = []
    for suffix in ("", "_reverse")[:D]:
        names = (f"{name}_l{layer}{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        W, R, b, r = (np.concatenate([np.split(weights[name], 4)[g] for g in _GATES]) for name in names)
        parts.append((W, R, np.concatenate([b, r])))
    W, R, B = (np.stack(part) for part in zip(*parts, strict=True))
    return W, R, B


def _inference(session: Any, case: Case) -> dict[str, Prepared]:
    feed = {"x": case.input()} | ({"lengths": case.lengths().astype(np.int32)} if case.padded else {})
    names = [output.name for output in session.get_outputs()]
    buffers = {output.name: np.empty(output.shape, np.float32) for output in session.get_outputs()}
    run, run_bound = partial(session.run, None, feed), _bind(session, feed, buffers)

    def named(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        y = found[f"y{case.layers - 1}"].transpose(0, 2, 1, 3).reshape(case.T, case.B, -1)
        h_n, c_n = (np.concatenate([found[f"{s}{layer}"] for layer in range(case.layers)]) for s in "hc")
        return {"output": y, "h_n": h_n, "c_n": c_n}

    def results_bound() -> dict[str, np.ndarray]:
        run_bound()
        return named(buffers)

    return {
        "run": Prepared(run, lambda: named(dict(zip(names, run(), strict=True)))),
        "io_binding": Prepared(run_bound, results_bound),
    }


class _Bound:
    """Steps on buffers bound once; two bindings take turns, so that the state need not be copied."""

    def __init__(self, session: Any, case: Case) -> None:
        zeros = np.zeros((1, case.B, case.H), np.float32)
        self._x, self._y = zeros.copy(), np.empty((1, *zeros.shape), np.float32)
        old, new = ((zeros.copy(), zeros.copy()) for _ in range(2))
        self._turns = cycle(
            (_bind(session, {"x": self._x, "h_0": a[0], "c_0": a[1]}, {"y0": self._y, "h0": b[0], "c0": b[1]}), b)
            for a, b in ((old, new), (new, old))
        )
        self.state = old

    def step(self, x: np.ndarray) -> np.ndarray:
        self._x[...] = x
        run, self.state = next(self._turns)
        run()
        return self._y


def _step(session: Any, case: Case) -> dict[str, Prepared]:
    x, stream = case.input(), _Bound(session, case)
    x_t, step = x[:1], stream.step

    def results() -> dict[str, np.ndarray]:
        fresh = _Bound(session, case)
        output = np.concatenate([fresh.step(x[t : t + 1]).copy()[:, 0] for t in range(case.T)])
        return {"output": output, "h_n": fresh.state[0], "c_n": fresh.state[1]}

    return {"io_binding": Prepared(lambda: step(x_t), results)}


def _bind(session: Any, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> Callable[[], None]:
    """Return a function that runs the session on these very arrays: on a CPU onnxruntime shares their memory."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    return partial(session.run_with_iobinding, binding)
