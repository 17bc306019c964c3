"""How far each precision is from float64: the persistent and the fused engine, forward and back.

    python benchmarks/precision.py                   on a GPU, through CuPy
    python benchmarks/precision.py --emulated        on the CPU, instruction by instruction: slow

Prints a table of relative norms, ||found - exact|| / ||exact||: of the output, and of the gradient that is
farthest off. "exact" is the plain loop in float64 on NumPy, on the same rounded parameters and input.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nplstm
from nplstm.backends import get_backend

ROWS = [("float32", precision) for precision in ("float32", "tf32", "float16", "bfloat16")] + [
    ("float16", "float16")
]
"""Element type of the arrays, and what products are rounded to."""


def run(lstm: nplstm.LSTM, be: Any, given: list[np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Return the output and all gradients, in float64."""
    x, cotangent = (be.asarray(array.astype(dtype)) for array in given)
    tape = lstm.record(x)
    grads = tape.backward(cotangent)
    found = {"output": tape.output, "input": grads.input, **grads.parameters}
    return {name: be.to_numpy(array).astype("float64") for name, array in found.items()}


def errors(be: Any, engine: str, dtype: str, precision: str, sizes: tuple[int, ...]) -> tuple[float, float]:
    """Return the relative error of the output, and the largest of a gradient's."""
    T, B, H = sizes
    rng = np.random.default_rng(0)
    lstm = nplstm.LSTM(H, H, dtype=dtype, backend=be.name, rng=0)
    exact = nplstm.LSTM(H, H, dtype="float64", rng=0)
    exact.load_state_dict({name: be.to_numpy(a).astype("float64") for name, a in lstm.state_dict().items()})
    given = [rng.standard_normal((T, B, H)).astype(dtype).astype("float64") for _ in range(2)]
    with nplstm.use_engines("plain"):
        expected = run(exact, get_backend("numpy"), given, "float64")
    with nplstm.use_engines(engine), nplstm.use_precision(precision):
        found = run(lstm, be, given, dtype)
    off = {k: float(np.linalg.norm(found[k] - v) / np.linalg.norm(v)) for k, v in expected.items()}
    return off.pop("output"), max(off.values())


def emulated() -> Any:
    """Return the backend of the tests, whose kernels run on the CPU."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import strict_backend  # noqa: F401  registers itself
    from cuda_on_cpu import CudaOnCpu

    from nplstm.backends._cuda import Device

    be: Any = get_backend("strict")
    be.cuda = CudaOnCpu(Device("CPU", (9, 0), 132, 232448), race_check=False, max_turns=2**40)
    return be


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emulated", action="store_true", help="run on the CPU, as the tests do")
    parser.add_argument("--sizes", default="", help="T,B,H of each row, such as 32,4,64 512,16,256", nargs="*")
    options = parser.parse_args()
    be = emulated() if options.emulated else get_backend("cupy")
    given = options.sizes or (["16,4,64", "32,4,128"] if options.emulated else ["512,16,256", "512,16,1024"])
    print("| T, B, H | engine | arrays | products | output | worst gradient |")
    print("| --- | --- | --- | --- | --- | --- |")
    for text in given:
        T, B, H = (int(part) for part in text.split(","))
        for engine in ("fused", "persistent"):
            for dtype, precision in ROWS if engine == "persistent" else [ROWS[0], ROWS[-1]]:
                output, gradient = errors(be, engine, dtype, precision, (T, B, H))
                row = f"| {T}, {B}, {H} | {engine} | {dtype} | {precision} | {output:.1e} | {gradient:.1e} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
