"""Compilation of a kernel for the CPU by g++: its own source, with the emulator's ``device.cuh``."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nplstm.engines.cuda.source import KERNELS, read_source

__all__ = ["build", "compiler", "text_for_cpu"]

_HERE = Path(__file__).parent
_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE")
_KERNEL_FLAGS = (
    *("-O1", "-include", str(_HERE / "language.h"), f"-I{_HERE}", f"-I{KERNELS}"),
    "-fsanitize=bounds-strict",
    "-Werror=stack-usage=65536",  # half of a fiber's stack
)


def compiler() -> str:
    """Return why kernels cannot be compiled here; empty if they can."""
    if not sys.platform.startswith("linux"):
        return "the emulator of a CUDA device needs Linux"
    return (
        ""
        if shutil.which("g++")
        else "g++ is not installed, which compiles kernels for the emulator of a CUDA device"
    )


def text_for_cpu(code: str, name: str) -> str:
    """Return a kernel's source with the emulator's device, and the functions that the emulator calls."""
    device = read_source("device.cuh")
    if code.count(device) != 1:
        raise ValueError("the kernel's text has to have device.cuh in it, once")
    return code.replace(device, '#include "device.cuh"\n') + (
        "\nnamespace emulator {\n"
        f"void run_kernel(const void* arguments) {{ call({name}, arguments); }}\n"
        f"extern const size_t arguments_size = size_of_argument({name});\n"
        "}  // namespace emulator\n"
    )


def build(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Compile the result of ``text_for_cpu``. Of the options, only definitions (``-D``) are used."""
    definitions = [option for option in options if option.startswith("-D")]
    library = _folder() / f"kernel-{_digest(_fingerprint(), text, *definitions)}.so"
    if not library.exists():
        runtime = _runtime()
        with _made_for(library) as made:
            source, compiled = made.with_suffix(".cpp"), made.with_suffix(".o")
            source.write_text(text, encoding="utf-8")
            _gxx(*_FLAGS, *_KERNEL_FLAGS, *_flags_of_version(), *definitions, "-c", source, "-o", compiled)
            _gxx("-shared", compiled, runtime, "-o", made)
    return ctypes.CDLL(str(library))


def _runtime() -> Path:
    runtime = _folder() / f"runtime-{_fingerprint()}.o"
    if not runtime.exists():
        with _made_for(runtime) as made:
            _gxx(*_FLAGS, "-O2", "-c", _HERE / "runtime.cpp", "-o", made)
    return runtime


def _gxx(*arguments: str | Path) -> None:
    done = subprocess.run(["g++", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr}")


@contextmanager
def _made_for(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and move the file to its own path at the end: another process may make it too."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        yield made
        made.replace(path)


@functools.cache
def _version() -> str:
    return subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()


def _flags_of_version() -> tuple[str, ...]:
    """Fill uninitialised variables with a pattern, where the compiler can do that."""
    return ("-ftrivial-auto-var-init=pattern",) if int(_version().split(".")[0]) >= 12 else ()


@functools.cache
def _fingerprint() -> str:
    """Return a digest of the emulator and its compiler."""
    files = sorted(path for path in _HERE.iterdir() if path.suffix in {".h", ".cuh", ".cpp"})
    files.append(KERNELS / "words.cuh")  # shared by this device and a real one
    texts = [path.read_text(encoding="utf-8") for path in files]
    return _digest(_version(), *_FLAGS, *_KERNEL_FLAGS, *_flags_of_version(), *texts)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


@functools.cache
def _folder() -> Path:
    """Return where libraries are kept: a folder that nobody else can write to, because they are run."""
    folder = Path(tempfile.gettempdir()) / f"nplstm-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder if folder.stat().st_uid == os.getuid() else Path(tempfile.mkdtemp(prefix=folder.name))
