"""Backends: dispatch by type, clear refusals, and a shared mathematics that calls NumPy nowhere."""

import ast
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import strict_backend
from conftest import require

import nplstm
from nplstm.backends import _cupy, backend_of, get_backend
from nplstm.backends._base import Backend

PACKAGE = Path(nplstm.__file__).parent

# Index arithmetic, seeds and files are the host's business; everything else is shared by the backends.
ON_THE_HOST = {
    "arguments.py",
    "blas.py",
    "packed.py",
    "packing.py",
    "segments.py",
    "params.py",
    "initialisers.py",
    "_typing.py",
}
HOST_FOLDERS = {"backends", "io", "commands"}
NUMPY_ENGINES = {"_numpy", "compiled"}


def shared_modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        on_host = HOST_FOLDERS & {relative.parts[0]} or (
            relative.parts[0] == "engines" and NUMPY_ENGINES & {*relative.parts}
        )
        if not on_host and relative.name not in ON_THE_HOST:
            yield path


def numpy_uses(source):
    """Lines where a module imports NumPy, or reads the name np or numpy."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "numpy" for alias in node.names):
            yield node.lineno
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
            yield node.lineno
        if isinstance(node, ast.Name) and node.id in {"np", "numpy"}:
            yield node.lineno


def namespace_uses(source):
    """Names taken from ``xp``, or from ``namespace(...)`` directly."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            is_xp = isinstance(owner, ast.Name) and owner.id == "xp"
            is_member = isinstance(owner, ast.Attribute) and owner.attr == "xp"
            is_call = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "namespace"
            if is_xp or is_member or is_call:
                yield node.attr


def test_the_shared_mathematics_calls_numpy_nowhere():
    paths = list(shared_modules())
    assert {"time_loop.py", "cell.py", "step.py", "optimizers.py"} <= {path.name for path in paths}
    uses = {path.name: list(numpy_uses(path.read_text())) for path in paths}
    assert not {name: lines for name, lines in uses.items() if lines}


def test_the_search_for_numpy_finds_it():
    assert list(numpy_uses("import numpy as np\nx = np.zeros(3)\nfrom numpy.linalg import norm")) == [1, 3, 2]


def test_the_shared_code_uses_what_cupy_has():
    used = {name for path in PACKAGE.rglob("*.py") for name in namespace_uses(path.read_text())}
    used -= {"cuda", "ndarray", "asnumpy", "random"}  # the CuPy backend's own
    assert used - {"dtype"} <= strict_backend.NAMES
    assert len(used) > 10
    if importlib.util.find_spec("cupy") is None:
        require("cupy", "CuPy is not installed: the list is compared with its namespace where it is")
    import cupy

    assert not {name for name in strict_backend.NAMES if not hasattr(cupy, name)}
    assert hasattr(cupy.add, "at")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda a, n: a + n, "NumPy ndarray among strict"),
        (lambda a, n: n + a, "unsupported operand|NumPy"),
        (lambda a, n: np.tanh(a), "refuses|__array_ufunc__|unsupported|conversion"),
        (lambda a, n: np.asarray(a), "implicit conversion"),
        (lambda a, n: a[np.array([0])], "index on the host"),
        (lambda a, n: a + a.astype("float64"), "operands of float32 and float64"),
        (lambda a, n: a * np.float64(2), "NumPy float64 among strict|unsupported"),
        (lambda a, n: get_backend("strict").xp.concatenate([a, n]), "NumPy ndarray among strict"),
        (lambda a, n: a.__setitem__(0, n[0]), "NumPy float32 among strict"),
    ],
)
def test_the_stand_in_refuses_what_cupy_refuses(wrong, match):
    array = np.ones(2, np.float32)
    with pytest.raises(TypeError, match=match):
        wrong(get_backend("strict").asarray(array), array)
    with pytest.raises(AttributeError, match="the shared code may not use"):
        get_backend("strict").xp.einsum  # noqa: B018


def test_a_backend_has_at_most_a_dozen_members():
    members = [name for name in {**vars(Backend), **Backend.__annotations__} if not name.startswith("_")]
    assert len(members) <= 12


def test_arrays_find_their_backend():
    assert backend_of(np.zeros(1)).name == "numpy"
    assert backend_of(get_backend("strict").asarray([1.0])).name == "strict"
    assert backend_of(np.zeros(1)) is get_backend("numpy")


def test_arrays_on_another_device_are_refused(monkeypatch):
    backend = get_backend("strict")
    lstm = nplstm.LSTM(3, 2, rng=0, backend="strict")
    x = backend.asarray(np.zeros((2, 1, 3), np.float32))
    monkeypatch.setattr(strict_backend.StrictBackend, "device", "strict:1")
    with pytest.raises(nplstm.BackendError, match="input: is on strict:0, but the current device is strict:1"):
        lstm(x)
    y = backend.asarray(np.zeros((2, 1, 3), np.float32))
    with pytest.raises(
        nplstm.BackendError, match="weight_ih_l0: is on strict:0, but the current device is strict:1"
    ):
        lstm(y)


def test_memory_maps_are_read(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    lstm = nplstm.LSTM(3, 2, rng=0)
    assert np.array_equal(lstm(np.load(tmp_path / "x.npy", mmap_mode="r"))[0], lstm(x)[0])


def test_mixed_backends_are_refused_naming_both(be):
    lstm = nplstm.LSTM(3, 2, rng=0, backend=be.name)
    other = get_backend("strict" if be.name == "numpy" else "numpy")
    with pytest.raises(nplstm.BackendError, match=rf"input: is an array of '{other.name}'.* on '{be.name}'"):
        lstm(other.asarray(np.zeros((2, 1, 3), np.float32)))


def test_layers_move_to_a_backend_and_back(be):
    lstm = nplstm.LSTM(3, 2, num_layers=2, bidirectional=True, rng=0)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    before, weights = lstm(x)[0], lstm.state_dict()
    assert lstm.to(be.name).backend == be.name
    there = lstm(be.asarray(x))[0]
    assert be.is_array(there)
    assert np.abs(be.to_numpy(there) - before).max() < 1e-6
    lstm.to("numpy")
    assert all(np.array_equal(lstm.parameters[name], weights[name]) for name in weights)


def test_state_dicts_cross_backends(be):
    here, there = nplstm.LSTM(3, 2, rng=0), nplstm.LSTM(3, 2, rng=1, backend=be.name)
    there.load_state_dict(here.state_dict())
    here.load_state_dict(there.state_dict())
    assert np.array_equal(be.to_numpy(there.parameters["weight_ih_l0"]), here.parameters["weight_ih_l0"])


def test_an_unknown_backend_is_named():
    with pytest.raises(nplstm.ArgumentError, match=r"backend: expected one of 'cupy', 'numpy'.* got 'tpu'"):
        nplstm.LSTM(3, 2).to("tpu")


def test_no_cupy_is_told_from_no_gpu(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(_cupy, "import_module", missing)
    with pytest.raises(
        nplstm.BackendUnavailableError, match=r"CuPy is not installed .*pip install 'nplstm\[cuda12\]'"
    ):
        _cupy.load()

    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        raise CUDARuntimeError("cudaErrorNoDevice")

    runtime = types.SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=count)
    fake = types.SimpleNamespace(__version__="14", cuda=types.SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(_cupy, "import_module", lambda name: fake)
    with pytest.raises(
        nplstm.BackendUnavailableError, match=r"installed but finds no usable GPU .*cudaErrorNoDevice"
    ):
        _cupy.load()
    runtime.getDeviceCount = lambda: 0
    with pytest.raises(nplstm.BackendUnavailableError, match="no CUDA device is visible"):
        _cupy.load()


OPTIONAL = (
    "torch",
    "cupy",
    "safetensors",
    "tqdm",
    "matplotlib",
    "sklearn",
    "hypothesis",
    "pytest",
    "scipy",
)
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"blocked: {{name}}")
sys.meta_path.insert(0, Block())
"""


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_library_runs_with_every_optional_package_blocked():
    code = BLOCK.format(blocked=set(OPTIONAL)) + (
        "import numpy as np, nplstm\n"
        "lstm = nplstm.LSTM(3, 2, num_layers=2, bidirectional=True, rng=0)\n"
        "tape = lstm.record(np.ones((4, 2, 3), np.float32))\n"
        "grads = tape.backward(np.ones_like(tape.output))\n"
        "nplstm.Adam(lstm.parameters).step(grads.parameters)\n"
        "import nplstm.commands.language_model, nplstm.plotting, nplstm.io, nplstm.commands.cli\n"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_importing_loads_numpy_alone():
    code = "import sys, numpy; before = set(sys.modules); import nplstm; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(code).stdout.split()
    assert "nplstm.layers.lstm" in loaded
    outside = {name.partition(".")[0] for name in loaded} - {"nplstm", "numpy"}
    assert outside <= set(sys.stdlib_module_names), outside


def test_the_block_blocks():
    result = run_python(BLOCK.format(blocked={"json"}) + "import json")
    assert result.returncode != 0
    assert "blocked: json" in result.stderr


def test_cupy_has_what_kernels_are_launched_with():
    """Without a device, too: names that are not there would be found on a GPU alone."""
    cupy = pytest.importorskip("cupy")
    for name in """RawModule _core.set_compute_type _core.get_compute_type
            _core._routines_linalg.COMPUTE_TYPE_TF32 cuda.Device.compute_capability cuda.Stream.begin_capture
            cuda.Stream.end_capture cuda.Graph.launch cuda.get_current_stream cuda.alloc_pinned_memory
            cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor cuda.runtime.deviceGetAttribute
            cuda.runtime.cudaDevAttrMultiProcessorCount cuda.runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
            cuda.runtime.getDeviceProperties cuda.function.CNumpyArray RawKernel.max_dynamic_shared_size_bytes
            RawKernel.kernel cuda.PinnedMemoryPointer.ptr""".split():
        found = cupy
        for part in name.split("."):
            assert hasattr(found, part), name
            found = getattr(found, part)


class FakeCupy:
    """As much of CuPy as a launch needs; keeps what it was asked for."""

    def __init__(self):
        self.asked = []
        attributes = dict(cudaDevAttrMultiProcessorCount=132, cudaDevAttrMaxSharedMemoryPerBlockOptin=232448)
        runtime = types.SimpleNamespace(
            **attributes,
            deviceGetAttribute=lambda attribute, number: attribute,
            getDeviceProperties=lambda number: {"name": b"NVIDIA H200"},
        )
        self.number, self.pointer = 0, 77
        driver = types.SimpleNamespace(occupancyMaxActiveBlocksPerMultiprocessor=self.occupancy)
        self.cuda = types.SimpleNamespace(
            runtime=runtime,
            driver=driver,
            Device=lambda number=0: types.SimpleNamespace(id=self.number, compute_capability="90"),
            get_current_stream=lambda: types.SimpleNamespace(ptr=self.pointer),
            alloc_pinned_memory=PinnedMemory,
        )

    def occupancy(self, pointer, threads, block_memory):
        self.asked.append(("occupancy", pointer, threads, block_memory))
        return 1

    def RawModule(self, *, code, options):  # noqa: N802
        self.asked.append(("compile", code, options))
        return types.SimpleNamespace(get_function=lambda name: FakeRawKernel(self, name))


class PinnedMemory(bytearray):
    ptr = 4096


class FakeRawKernel:
    def __init__(self, cupy, name):
        self.kernel = FakeFunction(cupy, name)

    def __setattr__(self, name, value):
        if name != "kernel":
            self.kernel.cupy.asked.append((name, value))
        super().__setattr__(name, value)


class FakeFunction:
    ptr = 5

    def __init__(self, cupy, name):
        self.cupy, self.name = cupy, name

    def __call__(self, grid, block, args, **keywords):
        self.cupy.asked.append((self.name, grid, block, args, keywords))


def test_a_launch_through_cupy():
    from nplstm.backends._cupy_cuda import CupyCuda

    fake = FakeCupy()
    cuda, arguments = CupyCuda(fake), np.zeros(1, np.dtype([("n", np.int32)]))
    assert cuda.device() == ("NVIDIA H200", (9, 0), 132, 232448, 0)
    kernel = cuda.kernel("text", "name", ("-DA=1",))
    assert cuda.kernel("text", "name", ("-DA=1",)) is kernel
    kernel.launch((3, 2), 256, arguments)
    assert kernel.resident(256, 100_000) == kernel.resident(256, 100_000) == 1
    kernel.launch((3, 2), 256, arguments, block_memory=90_000, together=True)
    plain, together = ({"shared_mem": m, "enable_cooperative_groups": t} for m, t in ((0, False), (90_000, True)))
    assert fake.asked == [
        ("compile", "text", ("-DA=1",)),
        ("name", (3, 2), (256,), (arguments,), plain),
        ("max_dynamic_shared_size_bytes", 100_000),
        ("occupancy", 5, 256, 100_000),
        ("name", (3, 2), (256,), (arguments,), together),
    ]
    fake.number = 1
    assert cuda.kernel("text", "name", ("-DA=1",)) is not kernel, "another device has a kernel of its own"
    assert cuda.stream() == (1, 77)
    fake.pointer = 2  # each thread's own default stream, by one name
    assert cuda.stream() == cuda.stream() != (1, 2)
    word = cuda.host_word()
    assert (int(word.value[0]), word.address) == (0, 4096)


class FakeLinalg:
    """CuPy's compute type, one for the process."""

    COMPUTE_TYPE_TF32, COMPUTE_TYPE_FP32 = 7, 3


@pytest.mark.parametrize(("before", "tf32", "during"), [(1, False, 1), (1, True, 7), (7, False, 3), (7, True, 7)])
def test_a_product_has_the_compute_type_it_asked_for(before, tf32, during):
    from nplstm.backends._cupy_cuda import CupyCuda

    fake, kept, seen = FakeCupy(), {"f": before}, []
    fake._core = types.SimpleNamespace(
        get_compute_type=kept.get, set_compute_type=kept.__setitem__, _routines_linalg=FakeLinalg
    )
    fake.matmul = lambda a, b, out: seen.append(kept["f"]) or a @ b
    a = np.ones((2, 2), np.float32)
    assert np.array_equal(CupyCuda(fake).matmul(a, a, tf32=tf32), a @ a)
    assert (seen, kept) == ([during], {"f": before})
    CupyCuda(fake).matmul(a.astype("float64"), a, tf32=False)
    assert seen[1] == before, "no other element type is concerned"
