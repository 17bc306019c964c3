"""Build the wheel with compiled kernels and the pure one, check both, and run a trained model in each.

The environment that runs this has what the Makefile's WHEEL_TOOLS names; each wheel is installed in a fresh one
with NumPy alone. For wheels that run with an older glibc than this machine's, run it in a manylinux image.

python tools/wheels.py [--out dist]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_BYTES = 3_000_000
"""Of our files once installed, without the bytecode that Python makes of them."""


def main() -> None:
    """Build, check and try both wheels."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the wheels")
    out: Path = parser.parse_args().out.absolute()
    start = time.perf_counter()
    compiled, pure = build(out, kernels=""), build(out, kernels="none")
    run("twine", "check", "--strict", compiled, pure)
    run("abi3audit", "--strict", compiled)
    for wheel, engine in ((compiled, "compiled"), (pure, "numpy")):
        check_files(wheel, engine)
        try_wheel(wheel, engine)
    print(f"both wheels work; {time.perf_counter() - start:.0f} s")


def run(*command: object, **variables: str) -> None:
    """Run a tool of this environment; its output is shown if it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path} | variables
    line = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stdout}{done.stderr}")


def build(out: Path, *, kernels: str) -> Path:
    """Build a wheel, on Linux with the name of the oldest glibc that it runs with; return where it is."""
    with tempfile.TemporaryDirectory() as folder:
        run("build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, NPLSTM_KERNELS=kernels)
        (built,) = Path(folder).glob("*.whl")
        if sys.platform == "linux" and not kernels:
            run("auditwheel", "repair", "--plat", "auto", "--wheel-dir", Path(folder, "repaired"), built)
            (built,) = Path(folder, "repaired").glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(built, out / built.name))


def check_files(wheel: Path, engine: str) -> None:
    """Compare what is in a wheel with the sources, and its tag with what it should fit."""
    with zipfile.ZipFile(wheel) as opened:
        found = {name for name in opened.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    listed = subprocess.run(
        [sys.executable, ROOT / "tools" / "package_files.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    added = {"compiled": "_kernels.abi3.so", "numpy": "why_pure.txt"}[engine]
    assert found == {*listed, f"nplstm/engines/compiled/{added}"}, found.symmetric_difference(listed)
    assert {"nplstm/py.typed", "nplstm/engines/cuda/kernels/device.cuh"} <= found
    tag = wheel.stem.split("-", 2)[2]
    assert tag.startswith("cp311-abi3-") if engine == "compiled" else tag == "py3-none-any", tag


def try_wheel(wheel: Path, engine: str) -> None:
    """Install a wheel with NumPy alone, run the model there, and print sizes."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, symlinks=os.name != "nt")
        python = Path(folder, "Scripts" if os.name == "nt" else "bin", "python")
        # the extra has nothing in it, and its name still has to be accepted
        run("pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", f"{wheel}[jit]")
        (package,) = Path(folder).glob("**/site-packages/nplstm")
        sizes = {file: file.stat().st_size for file in package.rglob("*") if file.is_file()}
        installed = sum(size for file, size in sizes.items() if file.suffix != ".pyc")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, installed {installed / 1e6:.2f} MB", end="")
        print(f", with Python's bytecode {sum(sizes.values()) / 1e6:.2f} MB", flush=True)
        assert installed <= MOST_BYTES
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NPLSTM_")}
        command = [python, "-I", "-W", "error", ROOT / "tools" / "try_installed.py", folder, engine]
        subprocess.run(command, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
