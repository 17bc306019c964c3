"""A process for each library, which is stopped by a signal while another has its turn.

After a call a library's threads keep cores busy for a while, waiting for the next one: torch's for some 10 ms,
onnxruntime's for 40, OpenBLAS's for 100. So a worker that has answered is stopped, with all its threads, and
continued when it is asked again: no library's time includes another's waiting.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS = ("compiled", "numpy", "plain")
"""nplstm's engines."""

RIVALS = ("torch", "onnxruntime")

LIBRARIES = (*RIVALS, *OURS)

REFERENCE = "reference"
"""The plain engine in float64, which the others are checked against."""

_ROOT = Path(__file__).parents[2]

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPLSTM_NUM_THREADS")

_SETTINGS = (
    *("OPENBLAS_", "GOTO_", "OMP_", "GOMP_", "KMP_", "MKL_", "NPY_", "NPLSTM_"),
    *("ORT_", "TORCH_", "ATEN_", "ONEDNN_", "DNNL_"),
)


class Unavailable(Exception):  # noqa: N818  it is a state, and no fault
    """A library is not there, or cannot do what it is asked for; says why."""


class WorkerError(Exception):
    """A library could not do what it was asked for."""


def environment(library: str, threads: int, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a worker's environment: libraries at their own defaults, with these threads and settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    env |= dict.fromkeys(_THREADS, str(threads)) | dict(settings or {})
    if library not in RIVALS:
        env["NPLSTM_ENGINES"] = "plain" if library == REFERENCE else library
    return env


class Worker:
    """A library's process, seen from the one that asks: a context manager that ends it."""

    def __init__(self, library: str, threads: int, settings: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rivals.serve", library, str(threads)],
            cwd=_ROOT,
            env=environment(library, threads, settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, command: str, *arguments: Any) -> Any:
        """Let the library work, and return its answer; it is stopped again then.

        Raises WorkerError if the library raised, or its process has ended.
        """
        process = self._process
        try:
            process.send_signal(signal.SIGCONT)
            pickle.dump((command, arguments), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            worked, answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkerError(f"the process ended, with status {process.wait()}") from error
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # returns when it has come to a stop
        if not worked:
            raise WorkerError(answer)
        return answer

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
