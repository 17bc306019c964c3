"""The library of kernels: without it, or with one that cannot be used, the NumPy engine runs and says why.

Each test has a copy of the package to itself, in a process of its own.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from conftest import needs_kernels, require

import nplstm
from nplstm.engines.compiled import library
from nplstm.engines.compiled.elf import damage

ROOT = Path(__file__).parent.parent
RUN = """
import numpy as np, nplstm
lstm = nplstm.LSTM(3, 5, rng=0)
output = lstm(np.ones((4, 2, 3), np.float32))[0]
with nplstm.use_engines("plain"):
    assert np.allclose(output, lstm(np.ones((4, 2, 3), np.float32))[0], atol=1e-6)
print(nplstm.__file__, lstm.engine_for())
"""


class Package:
    """A copy of the package without a library, and what it prints of its engines."""

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree(ROOT / "nplstm", folder / "nplstm", ignore=shutil.ignore_patterns("_kernels*", "*.txt"))
        self.compiled = folder / "nplstm" / "engines" / "compiled"
        self.library = self.compiled / "_kernels.abi3.so"

    def run(self, code=RUN, **variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NPLSTM_")}
        environment = kept | {"PYTHONPATH": str(self.folder)} | variables
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def engine(self, **variables):
        """Return which engine ran, and why no other."""
        done = self.run(**variables)
        assert done.returncode == 0, done.stderr
        file, _, choice = done.stdout.partition(" ")
        assert Path(file).is_relative_to(self.folder)
        return choice


@pytest.fixture
def package(tmp_path):
    return Package(tmp_path)


@pytest.fixture
def kernels():
    """The library of this installation, as bytes."""
    needs_kernels()
    return Path(library.library().module.__file__).read_bytes()


def refused(choice):
    """Return why the compiled engine does not run, where NumPy's does."""
    first, second = choice.strip().splitlines()
    assert first == "numpy"
    return re.fullmatch(r" *not compiled: (.*)", second)[1]


# What is wrong with a file


def test_a_copy_of_the_library_is_used(package, kernels):
    """The tests below would pass on any nonsense otherwise."""
    package.library.write_bytes(kernels)
    assert package.engine().splitlines()[0] == "compiled"


def test_a_library_that_is_missing(package):
    reason = refused(package.engine())
    assert reason.startswith("needs its library of kernels, which is missing: pip install")
    assert "gcc or clang" in reason


def test_a_package_that_was_built_pure_says_why(package):
    (package.compiled / "why_pure.txt").write_text("there was no C compiler\n")
    assert (
        "needs its library of kernels, without which nplstm was built (there was no C compiler): pip"
        in refused(package.engine())
    )


@pytest.mark.parametrize("kept", [0, 10, 64, 4096, 100_000, -1])
def test_a_library_that_was_cut_short(package, kernels, kept):
    package.library.write_bytes(kernels[:kept])
    assert f"{package.library} is damaged: pip install" in refused(package.engine())


def test_a_library_that_was_not_written_to_its_end(package, kernels):
    package.library.write_bytes(kernels[:100_000].ljust(len(kernels), b"\0"))
    assert "is damaged" in refused(package.engine())
    package.library.write_bytes(bytes(len(kernels)))
    assert "is damaged" in refused(package.engine())


def test_a_library_that_cannot_be_read(tmp_path):
    assert damage(tmp_path).startswith("cannot be read (")  # a folder


def test_a_file_that_is_no_library(package):
    package.library.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123456789\nsize 265520\n")
    assert "cannot be loaded" in refused(package.engine())


@pytest.mark.skipif(sys.platform != "linux", reason="changes the header of an ELF file")
def test_a_library_of_another_platform(package, kernels):
    changed = bytearray(kernels)
    changed[18:20] = (183 if kernels[18] == 62 else 62).to_bytes(2, "little")  # e_machine
    package.library.write_bytes(changed)
    assert "is for processors of another kind: pip install" in refused(package.engine())
    changed = bytearray(kernels)
    changed[4] = 1  # 32 bits
    package.library.write_bytes(changed)
    assert "of another platform" in refused(package.engine())
    package.library.write_bytes(b"\xcf\xfa\xed\xfe" + bytes(kernels[4:]))  # as on macOS
    assert "cannot be loaded" in refused(package.engine())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets of x86-64")
def test_a_library_for_a_newer_cpu(package):
    """The real module, compiled for AVX2 by someone's CFLAGS, on a CPU that denies having it."""
    compiler, include = shutil.which("cc"), sysconfig.get_path("include")
    if compiler is None or not Path(include, "Python.h").exists():
        require("kernels", "compiles a library, and there is no C compiler or no Python.h")
    stub = package.folder / "stub.c"
    stub.write_text('#include "kernels.h"\nconst Kernels kernels_baseline_32, kernels_baseline_64;\n')
    sources = package.compiled / "kernels"
    flags = ["-std=gnu11", "-shared", "-fPIC", "-pthread", "-mavx2", "-D__builtin_cpu_supports(set)=0"]
    files = [stub, *(sources / f"{name}.c" for name in ("module", "stack", "layer", "pool"))]
    subprocess.run([compiler, *flags, f"-I{include}", f"-I{sources}", *files, "-o", package.library], check=True)
    assert (
        "cannot be loaded (the library was built for CPUs with AVX2, which this one lacks): pip install"
    ) in refused(package.engine())


# What the environment asks for


def test_none_leaves_the_kernels_out(package, kernels):
    package.library.write_bytes(kernels)
    assert (
        refused(package.engine(NPLSTM_KERNELS="none"))
        == "needs its library of kernels, which NPLSTM_KERNELS=none turns off"
    )
    assert package.engine(NPLSTM_KERNELS="  ").startswith("compiled")


def test_each_instruction_set_can_be_asked_for(package, kernels):
    package.library.write_bytes(kernels)
    here = [name for name, _ in library.library().module.sets()]
    for name in library.INSTRUCTION_SETS:
        choice = package.engine(NPLSTM_KERNELS=name)
        if name in here:
            assert choice.splitlines() == ["compiled", f"  kernels for {name}"]
        else:
            assert refused(choice).startswith(
                f"needs the instruction set of NPLSTM_KERNELS={name}, which is not available"
            )
    assert set(here) < set(library.INSTRUCTION_SETS)  # no machine has both AVX2 and NEON


def test_an_instruction_set_that_the_cpu_lacks(monkeypatch):
    """As on a machine with AVX2 and no AVX-512."""
    older = type("module", (), {"sets": staticmethod(lambda: (("avx2", 8), ("baseline", 4)))})
    monkeypatch.setattr(library, "load", lambda package, module: (older,))
    monkeypatch.setattr(library, "find_spec", lambda name: type("spec", (), {"origin": sys.executable}))
    monkeypatch.setenv("NPLSTM_KERNELS", "avx512")
    assert library._found.__wrapped__() == (
        "needs the instruction set of NPLSTM_KERNELS=avx512, which is not available: there are avx2, baseline"
    )
    monkeypatch.setenv("NPLSTM_KERNELS", "")
    assert library._found.__wrapped__().instruction_set == "avx2"


def test_nonsense_is_an_error_that_names_the_choices(package, kernels):
    package.library.write_bytes(kernels)
    done = package.run(NPLSTM_KERNELS="sse9")
    assert done.returncode == 1
    choices = "'avx512', 'avx2', 'neon', 'baseline', 'none'"
    assert f"ArgumentError: NPLSTM_KERNELS: expected one of {choices}, got 'sse9'" in done.stderr
    assert package.run("import nplstm; nplstm.LSTM(2, 3)", NPLSTM_KERNELS="sse9").returncode == 0


def test_the_library_is_loaded_when_it_is_needed(package, kernels):
    package.library.write_bytes(kernels)
    code = "import sys, nplstm; nplstm.LSTM(2, 3); print('nplstm.engines.compiled._kernels' in sys.modules)"
    assert package.run(code).stdout == "False\n"


# What is built


def test_there_is_one_version():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    of_meson = re.search(
        r"^project\('nplstm', version: '([^']+)'", (ROOT / "meson.build").read_text(), re.MULTILINE
    )
    assert project["version"] == of_meson[1] == nplstm.__version__


def test_every_file_of_the_package_is_listed():
    """But for C sources, what a build makes, and caches."""
    command = [sys.executable, ROOT / "tools" / "package_files.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nplstm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    left_out = {path for path in there - set(listed) if not re.search(r"/kernels/(\w+\.[ch]|meson\.build)$", path)}
    assert left_out <= {path for path in there if re.search(r"/_kernels\..*\.so$|/why_pure\.txt$", path)}
    assert set(listed) <= there


def test_the_extra_of_the_past_asks_for_nothing():
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["optional-dependencies"]["jit"] == []


def test_free_threaded_python_does_without_the_limited_api(monkeypatch):
    """It has none, and meson-python stops where the project asks for it."""
    monkeypatch.setitem(sys.modules, "mesonpy", MagicMock())
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "tools" / "build_backend.py")
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    given = {"setup-args": "-Doptimization=2", "build-dir": "b"}
    assert backend._settings(given) is given
    monkeypatch.setattr(backend.sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    off = "-Dpython.allow_limited_api=false"
    assert backend._settings(None) == {"setup-args": [off]}
    assert backend._settings(given) == {"setup-args": [off, "-Doptimization=2"], "build-dir": "b"}
