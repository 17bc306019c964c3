"""Would other kernels be faster? Found out by running them.

OpenBLAS chooses kernels by a list of the processors that it knows. Of a newer one with AVX-512 it may run the AVX2
kernels, at up to half the speed. OPENBLAS_CORETYPE overrides its choice, if it is set when the library is loaded:
so each run is an interpreter of its own, with the variable and without in turns.
``python -m nplstm.commands.doctor.trial`` is one run.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from nplstm.commands.doctor.blas import OPENBLAS, Blas, find_blas
from nplstm.commands.doctor.machine import Processor
from nplstm.commands.doctor.rates import STEPS, Progress, gflops, product_call, seconds_per_call

VARIABLE, KERNELS = "OPENBLAS_CORETYPE", "SkylakeX"
PAYS = 1.1
"""What the kernels have to gain to be worth a variable in the environment."""

# One that is not in this set costs a user two seconds, in which the trial finds nothing.
_WITH_AVX512 = {"SkylakeX", "Cooperlake", "SapphireRapids"}

_PAIRS = 3
_SECONDS = 0.15
_PRODUCT = STEPS["LSTM step, H = 512, B = 32"]
# Other programs make threads wait for each other, and then all kernels are equally slow.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_TIMEOUT = 60


@dataclass(frozen=True)
class KernelTrial:
    """An LSTM step's product on one thread, with the kernels that OpenBLAS runs and with others; medians."""

    kernels: str
    gflops: float
    tried: str
    tried_gflops: float
    speedup: float
    """Median over pairs of runs, one after the other."""

    @property
    def pays(self) -> bool:
        """Whether the variable acts, and gains enough."""
        return self.tried != self.kernels and self.speedup > PAYS


def worth_trying(processor: Processor, blas: Blas) -> bool:
    """Tell whether this is OpenBLAS on a processor with AVX-512, and runs kernels that do not use it."""
    no_avx512 = blas.kernels is not None and blas.kernels not in _WITH_AVX512
    return blas.name == OPENBLAS and no_avx512 and "avx512f" in processor.instructions


def try_kernels(progress: Progress) -> KernelTrial | None:
    """Compare the environment as it is with the variable set; None if a run fails."""
    try:
        pairs = [(_run({}), _run({VARIABLE: KERNELS})) for _ in progress(range(_PAIRS), f"trying {KERNELS}")]
    except (OSError, subprocess.SubprocessError, ValueError):  # an emulated AVX-512 may kill the process
        return None
    now, tried = zip(*pairs, strict=True)
    return KernelTrial(
        now[0]["kernels"],
        statistics.median(run["gflops"] for run in now),
        tried[0]["kernels"],
        statistics.median(run["gflops"] for run in tried),
        statistics.median(b["gflops"] / a["gflops"] for a, b in pairs),
    )


def _run(variables: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "nplstm.commands.doctor.trial"]
    environment = os.environ | _ONE_THREAD | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    return json.loads(done.stdout)


def _main() -> None:
    call = product_call(_PRODUCT)
    seconds_per_call(call, _SECONDS / 3)  # warms up
    rate = gflops(_PRODUCT, seconds_per_call(call, _SECONDS))
    sys.stdout.write(json.dumps({"kernels": find_blas().kernels, "gflops": rate}))


if __name__ == "__main__":
    _main()
