"""How far it is from a call to its product: folders, imports, frames, Python calls, microseconds.

python benchmarks/call_path.py                        this source tree
python benchmarks/call_path.py --beside ../before     another one too, measured in turn with this one
python benchmarks/call_path.py --json figures.json

Only public names are used, so that source trees of different layouts can be compared. Each figure is taken in a
fresh process whose PYTHONPATH is the tree; its kernels have to be compiled there.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import timeit
import traceback
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from time import process_time
from typing import Any

ENGINES = ("compiled", "numpy")
ROUNDS = 5


# The package as it is written.


def modules_of(package: Path) -> dict[str, Path]:
    """Return the files of a package by module name."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, names: dict[str, Path]) -> Iterator[str]:
    """Return the package's own modules that a file imports, at its top or in a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member in names else str(node.module)


def room_of(module: str, package: str) -> str:
    """Return the folder or file at the top of the package that a module is in."""
    return module.removeprefix(package + ".").split(".")[0]


def written(tree: Path) -> dict[str, int]:
    """Count what the source tree holds."""
    modules = modules_of(tree / "nplstm")
    rooms = {room_of(module, "nplstm") for module in modules} - {"nplstm"}
    edges: set[tuple[str, str]] = set()
    for module, path in modules.items():
        room = room_of(module, "nplstm")
        edges |= {(room, room_of(other, "nplstm")) for other in imports_of(path, modules)}
    edges = {(a, b) for a, b in edges if a != b and "nplstm" not in (a, b)}
    floors = 0
    sorter: TopologicalSorter[str] = TopologicalSorter(
        {room: {b for a, b in edges if a == room} for room in rooms}
    )
    sorter.prepare()  # raises where rooms import each other in a circle
    while sorter.is_active():
        floors += 1
        sorter.done(*sorter.get_ready())
    return {
        "rooms": len(rooms),
        "floors": floors,
        "imports between rooms": len(edges),
        "modules": len(modules),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules.values()),
    }


# A call as it runs.


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of the package in a traceback."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if "/nplstm/" in frame.filename]


def product_path(engine: str) -> dict[str, int]:
    """Count frames and files from ``lstm(x)`` to the product with W_hh, which is made to fail."""
    import numpy as np

    import nplstm

    lstm = nplstm.LSTM(3, 4, rng=0)
    lstm.parameters["weight_hh_l0"] = np.full((16, 4), np.inf, np.float32)
    x = np.ones((2, 1, 3), np.float32)
    with nplstm.use_engines(engine):
        try:
            with np.errstate(invalid="raise"):
                lstm(x)  # 0 times infinity
        except FloatingPointError as error:
            frames = own_frames(error)
            return {"frames": len(frames), "files": len({frame.filename for frame in frames})}
    raise SystemExit(f"{engine}: no product was seen")


def python_calls(engine: str) -> dict[str, int]:
    """Count the package's own Python calls in a recorded call of two steps, and in its way back."""
    import numpy as np

    import nplstm

    lstm = nplstm.LSTM(3, 4, rng=0)
    x, grad = np.ones((2, 1, 3), np.float32), np.ones((2, 1, 4), np.float32)

    def count(call: Callable[[], Any]) -> tuple[int, int, int]:
        calls: list[tuple[str, str]] = []

        def profile(frame: Any, event: str, _: Any) -> None:
            if event == "call" and "/nplstm/" in frame.f_code.co_filename:
                calls.append((frame.f_back.f_code.co_filename, frame.f_code.co_filename))

        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(None)
        return len(calls), len({callee for _, callee in calls}), sum(a != b for a, b in calls)

    with nplstm.use_engines(engine):
        tape = lstm.record(x)  # what is made once for a layer is made
        tape.backward(grad)
        record, back = count(lambda: lstm.record(x)), count(lambda: tape.backward(grad))
    names = ("calls", "modules", "changes of file")
    return {
        **{f"record: {name}": number for name, number in zip(names, record, strict=True)},
        **{f"backward: {name}": number for name, number in zip(names, back, strict=True)},
    }


def microseconds(engine: str) -> dict[str, float]:
    """Time calls of a small layer: microseconds of CPU."""
    import numpy as np

    import nplstm

    H = 20
    lstm, cell = nplstm.LSTM(H, H, rng=0), nplstm.LSTMCell(H, H, rng=0)
    found: dict[str, float] = {}

    def time(name: str, call: Callable[[], Any]) -> None:
        call()
        number = max(1, int(0.02 / timeit.timeit(call, number=20) * 20))
        # of one thread, and of its own: other programs take less of it than of the clock's time
        found[name] = min(timeit.repeat(call, number=number, repeat=7, timer=process_time)) / number * 1e6

    with nplstm.use_engines(*([engine] if engine == "plain" else [engine, "plain"])):
        for T in (1, 20):
            x, grad = np.ones((T, 1, H), np.float32), np.ones((T, 1, H), np.float32)
            tape = lstm.record(x)
            time(f"lstm(x), T={T}", lambda x=x: lstm(x))
            time(f"record, T={T}", lambda x=x: lstm.record(x))
            time(f"backward, T={T}", lambda tape=tape, grad=grad: tape.backward(grad))
            time(f"record + backward, T={T}", lambda x=x, grad=grad: lstm.record(x).backward(grad))
        x, h, c = np.ones((1, H), np.float32), np.zeros((1, H), np.float32), np.zeros((1, H), np.float32)
        step = cell.record(x, (h, c))
        time("LSTMCell", lambda: cell(x, (h, c)))
        time("LSTMCell record + backward", lambda: cell.record(x, (h, c)).backward(h, c))
        time("LSTMCell backward", lambda: step.backward(h, c))
    return found


PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "path to the product": product_path,
    "two steps": python_calls,
    "microseconds": microseconds,
}


# All trees, in turn.


def probe(tree: Path, name: str, engine: str) -> dict[str, float]:
    """Run one probe on a source tree."""
    environment = os.environ | {"PYTHONPATH": str(tree.resolve()), "NPLSTM_NUM_THREADS": "1"}
    environment |= {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--probe", name, engine]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}: {name}, {engine}:\n{done.stderr}")
    return json.loads(done.stdout)


def measure(trees: list[Path], rounds: int) -> list[dict[str, Any]]:
    """Return the figures of each tree: medians over rounds, in which the trees take turns."""
    figures: list[dict[str, Any]] = [{"package": written(tree)} for tree in trees]
    for name, engines in (("path to the product", ("numpy", "plain")), ("two steps", (*ENGINES, "plain"))):
        for engine in engines:
            for tree, found in zip(trees, figures, strict=True):
                found[f"{name}, {engine}"] = probe(tree, name, engine)
    for engine in (*ENGINES, "plain"):
        rows: list[list[dict[str, float]]] = [[] for _ in trees]
        for _ in range(rounds):
            for tree, row in zip(trees, rows, strict=True):
                row.append(probe(tree, "microseconds", engine))
        for row, found in zip(rows, figures, strict=True):
            medians = {name: statistics.median(r[name] for r in row) for name in row[0]}
            found[f"microseconds, {engine}"] = {name: round(value, 1) for name, value in medians.items()}
    return figures


def table(trees: list[Path], figures: list[dict[str, Any]]) -> str:
    """Write the figures as a Markdown table."""
    lines = [f"| | {' | '.join(tree.resolve().name for tree in trees)} |", "| --- |" + " ---: |" * len(trees)]
    for group, members in figures[-1].items():
        for name in members:
            values = [str(found[group].get(name, "")) for found in figures]
            lines.append(f"| {group}: {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another source tree")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes for each timing")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        name, engine = arguments.probe
        print(json.dumps(PROBES[name](engine)))
        return
    trees = [*arguments.beside, Path(__file__).resolve().parents[1]]
    figures = measure(trees, arguments.rounds)
    print(table(trees, figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
