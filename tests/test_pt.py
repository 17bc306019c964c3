"""PyTorch's files without torch: what torch saved, and what no file may do."""

import io
import itertools
import os
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nplstm
from nplstm.errors import FileFormatError, NplstmError
from nplstm.io import open_file, read_tensors
from nplstm.io.pt import allowed_globals, storages, unpickler

FOLDER = Path(__file__).parent / "files" / "pt"
FILES = sorted(path.stem for path in FOLDER.glob("*.pt"))
FORMATS = {"legacy": "PyTorch (before 1.6)", "types_legacy": "PyTorch (before 1.6)"} | dict.fromkeys(
    ("scripted", "traced"), "TorchScript"
)


def expected(name):
    """What is in a file, and what its LSTM computes."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files if key != "made by"}
    run = {key.removeprefix("run/"): array for key, array in arrays.items() if key.startswith("run/")}
    return {key: array for key, array in arrays.items() if not key.startswith("run/")}, run


def check_equal(actual, wanted):
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    assert np.array_equal(actual, wanted)
    assert actual.flags.c_contiguous
    assert actual.flags.writeable


@pytest.mark.parametrize("name", FILES)
def test_what_torch_saved_is_read(name):
    wanted, _ = expected(name)
    with open_file(FOLDER / f"{name}.pt") as file:
        assert file.format == FORMATS.get(name, "PyTorch")
        assert set(file.tensors) == set(wanted)
        for key, array in wanted.items():
            assert file.tensors[key].shape == array.shape
            assert file.tensors[key].dtype == ("bfloat16" if key == "bfloat16" else array.dtype.name)
            check_equal(file.read(key), array)


@pytest.mark.parametrize("name", ["zip", "legacy", "scripted", "traced"])
def test_a_loaded_lstm_computes_what_torch_computed(name):
    _, run = expected(name)
    lstm = nplstm.load(FOLDER / f"{name}.pt")
    assert repr(lstm).startswith("LSTM(2, 5, num_layers=2, bidirectional=True, proj_size=3")
    output, (h_n, c_n) = lstm(run["x"], (run["h_0"], run["c_0"]))
    tolerance = 1e-12 if run["x"].dtype == np.float64 else 1e-6  # rounding of the element type, over few steps
    for key, array in {"output": output, "h_n": h_n, "c_n": c_n}.items():
        assert array.dtype == run[key].dtype
        np.testing.assert_allclose(array, run[key], rtol=tolerance, atol=tolerance, err_msg=key)


def test_layers_of_a_checkpoint():
    with open_file(FOLDER / "checkpoint.pt") as file:
        found = {layer.name: layer.options["kind"] for layer in file.layers()}
    assert found == {"model_state.module.encoder.": "LSTM", "cell.": "LSTMCell"}
    assert repr(nplstm.load(FOLDER / "checkpoint.pt", prefix="encoder.")) == "LSTM(2, 5)"
    assert repr(nplstm.load(FOLDER / "checkpoint.pt", prefix="cell")) == "LSTMCell(2, 5)"


def test_a_value_that_is_wrong_is_seen(monkeypatch):
    """The comparison above fails if an element type is taken for another, or strides are ignored."""
    monkeypatch.setitem(storages.NUMPY_CODES, "int32", "u4")
    with pytest.raises(AssertionError):
        check_equal(read_tensors(FOLDER / "types.pt")["int32"], expected("types")[0]["int32"])
    monkeypatch.setattr(storages, "as_strided", lambda flat, shape, strides: np.resize(flat, shape))
    with pytest.raises(AssertionError):
        check_equal(read_tensors(FOLDER / "types.pt")["transposed"], expected("types")[0]["transposed"])


# Live against torch


@pytest.fixture
def torch(torch_reference):
    import torch

    return torch


SAVERS = {
    "zip": {},
    "legacy": dict(_use_new_zipfile_serialization=False),
    "protocol 4": dict(pickle_protocol=4),
    "protocol 5": dict(pickle_protocol=5),
    "legacy, protocol 5": dict(_use_new_zipfile_serialization=False, pickle_protocol=5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saver", SAVERS)
def test_objects_of_all_kinds_live(torch, saver, tmp_path):
    import argparse
    import collections
    import datetime
    import decimal
    import fractions
    import types

    from make_files_pt import as_numpy, tensors

    found = tensors() | {
        "numpy": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "other order": np.arange(3, dtype=">i4"),
        "numpy scalar array": np.array(3),
    }
    others = {
        "scalar": np.float64(2), "objects": np.array(["a", None]), "text": np.array(["ab"]), "set": {1},
        "frozenset": frozenset([2]), "complex": 1j, "bytes": b"ab", "bytearray": bytearray(b"x"),
        "dtype": torch.int8,
        "device": torch.device("cpu"), "size": torch.Size([1, 2]), "version": torch.__version__,
        "counter": collections.Counter("aab"), "path": Path("a/b"), "time": datetime.datetime(2020, 1, 2),
        "default": collections.defaultdict(list, {1: [2]}), "storage": torch.zeros(2).untyped_storage(),
        "long": 2**100, "none": None, "float": 1.5, "range": range(3), "slice": slice(1, 2),
        "decimal": decimal.Decimal("1.5"), "fraction": fractions.Fraction(1, 2),
        "namespace": types.SimpleNamespace(a=1), "deque": collections.deque([1, 2]),
        ("a", "b"): [1], b"x": 1, np.int64(3): 1, "keys": {("a", 1): {}, None: 2},
    }  # fmt: skip
    held = {
        "in a namespace": argparse.Namespace(weight=torch.ones(2)),
        "in another": types.SimpleNamespace(weight=torch.ones(3)),
        "in a deque": collections.deque([torch.ones(4)], maxlen=3),
    }
    nested = {"list": [found, (found["float32"],)], "number": {3: found["bool"], None: found["int8"]}}
    torch.save({**found, "others": others, **held, **nested}, tmp_path / "m.pt", **SAVERS[saver])
    read = read_tensors(tmp_path / "m.pt")
    wanted = dict(found) | {"in a namespace.weight": torch.ones(2), "in another.weight": torch.ones(3)}
    wanted["in a deque.0"] = torch.ones(4)
    wanted |= {f"list.0.{name}": value for name, value in found.items()}
    wanted |= {"list.1.0": found["float32"], "number.3": found["bool"], "number.None": found["int8"]}
    assert set(read) == set(wanted)
    for name, value in wanted.items():
        array = as_numpy(value)
        check_equal(read[name], array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.filterwarnings("ignore")
def test_types_that_numpy_lacks_are_listed_and_refused_live(torch, tmp_path):
    eye = torch.eye(3)
    kinds = {
        "float8_e5m2": eye.to(torch.float8_e5m2),
        "complex32": eye.to(torch.complex32).conj(),
        "qint8": torch.quantize_per_tensor(eye, 0.1, 0, torch.qint8),
        "float32 (sparse_coo)": eye.to_sparse(),
        "float32 (sparse_csr)": eye.to_sparse_csr(),
        "float32 (meta)": torch.empty(3, 3, device="meta"),
    }
    torch.save(kinds | {"good": eye}, tmp_path / "m.pt")
    with open_file(tmp_path / "m.pt") as file:
        for name in kinds:
            assert file.tensors[name].dtype == name
            assert file.tensors[name].shape == (3, 3)
            with pytest.raises(FileFormatError, match=r"m\.pt: the tensor '.*' is .* NumPy"):
                file.read(name)
        assert np.array_equal(file.read("good"), np.eye(3))
    quantised = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(2, 3)))
    torch.save(quantised.state_dict(), tmp_path / "q.pt")
    with pytest.raises(FileFormatError, match=r"q\.pt: asks for torch\.\w+, which no .* refused$"):
        open_file(tmp_path / "q.pt")
    torch.save(torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), tmp_path / "n.pt")
    with pytest.raises(FileFormatError, match=r"n\.pt: asks for torch\._utils\._rebuild_nested_tensor.* refused$"):
        open_file(tmp_path / "n.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["zip", "legacy", "script", "trace"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("options", [{}, dict(bidirectional=True), dict(proj_size=2), dict(bias=False)])
def test_lstms_of_all_kinds_live(torch, options, layers, dtype, how, tmp_path):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    lstm = torch.nn.LSTM(3, 5, num_layers=layers, dtype=kind, **options)
    x = torch.randn(4, 2, 3, dtype=kind)
    path = tmp_path / "m.pt"
    if how in SAVERS:
        torch.save(lstm.state_dict(), path, **SAVERS[how])
    else:
        torch.jit.save(torch.jit.script(lstm) if how == "script" else torch.jit.trace(lstm, x), path)
    output, (h_n, c_n) = nplstm.load(path)(x.numpy())
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    with torch.no_grad():
        wanted, states = lstm(x)
    for array, tensor in zip((output, h_n, c_n), (wanted, *states), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_lists_parameters_and_buffers_live(torch, tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 3)
            self.many = torch.nn.ModuleList([torch.nn.LSTMCell(2, 3), torch.nn.Linear(2, 3)])
            for name in ("uint16", "bfloat16", "complex64", "bool", "int8"):
                self.register_buffer(f"b_{name}", torch.ones(2, dtype=getattr(torch, name)))
            self.register_buffer("conjugated", torch.randn(2, dtype=torch.complex64).conj())
            self.table = {"a": torch.ones(2)}
            self.rest = [1, 2]
            self.shared = self.many[0]

        def forward(self, x: torch.Tensor):
            return self.lstm(x)[0] * 3

    model = Model()
    torch.jit.save(torch.jit.script(model), tmp_path / "m.pt")
    read = read_tensors(tmp_path / "m.pt")
    assert set(read) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        value = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        check_equal(read[name], value.resolve_conj().numpy())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saver", ["zip", "legacy"])
def test_a_whole_module_is_refused_with_advice_live(torch, saver, tmp_path):
    torch.save(torch.nn.LSTM(2, 3), tmp_path / "m.pt", **SAVERS[saver])
    with pytest.raises(
        FileFormatError, match=r"m\.pt: asks for torch\.nn\.modules\.rnn\.LSTM.*model\.state_dict\(\)"
    ):
        open_file(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_script_says_so_live(torch, tmp_path):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 3)

        def forward(self, x: torch.Tensor):
            return self.lstm(x)[0]

    torch.jit.save(torch.jit.freeze(torch.jit.script(Model().eval())), tmp_path / "m.pt")
    with pytest.raises(FileFormatError, match=r"m\.pt: no LSTM is in this frozen TorchScript file"):
        nplstm.load(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore")
def test_without_checksums_live(torch, tmp_path):
    from torch.serialization import set_crc32_options

    set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3)}, tmp_path / "m.pt")
    finally:
        set_crc32_options(True)
    assert read_tensors(tmp_path / "m.pt")["a"].tolist() == [0, 1, 2]


# A small assembler: pickles by hand, in files by hand


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def many(*parts):
    return b"(" + b"".join(parts) + b"t"


def sizes(*values):
    return many(*map(integer, values))


def call(function, *arguments):
    return function + many(*arguments) + b"R"


def dictionary(**items):
    return b"}" + b"".join(text(key) + value + b"s" for key, value in items.items())


def storage(kind="FloatStorage", key="0", count=6, module="torch", extra=b""):
    return b"(" + text("storage") + name(module, kind) + text(key) + text("cpu") + integer(count) + extra + b"tQ"


EMPTY = name("collections", "OrderedDict") + b")R"
V2 = name("torch._utils", "_rebuild_tensor_v2")


def tensor(held=None, offset=0, shape=(2, 3), strides=(3, 1), function=V2, last=b""):
    held = storage() if held is None else held
    return call(function, held, integer(offset), sizes(*shape), sizes(*strides), b"\x89", EMPTY, last)


def program(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + b"."


NUMBERS = np.arange(6, dtype="<f4").tobytes()


def zipped(body, storages=None, entries=None, script=False, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    parts = {"data.pkl": body, "version": b"3\n"}
    parts |= {f"data/{key}": data for key, data in ({"0": NUMBERS} if storages is None else storages).items()}
    parts |= {"constants.pkl": b"\x80\x02)."} if script else {}
    with zipfile.ZipFile(file, "w", method) as archive:
        for entry, data in (parts | (entries or {})).items():
            archive.writestr(f"m/{entry}", data)
    return file.getvalue()


MAGIC = 0x1950A86A20F9469CFC6C


def legacy(body, storages=None, magic=MAGIC, version=1001, keys=None, machine=None, counts=None):
    storages = ({"0": NUMBERS} if text("storage") in body else {}) if storages is None else storages
    machine = dictionary(little_endian=b"\x88") if machine is None else machine
    keys = b"](" + b"".join(map(text, storages)) + b"e" if keys is None else keys
    parts = [program(part) for part in (integer(magic), integer(version), machine)] + [body, program(keys)]
    for key, data in storages.items():
        parts += [struct.pack("<q", (counts or {}).get(key, len(data) // 4)), data]
    return b"".join(parts)


CONTAINERS = {
    "zip": zipped,
    "script": lambda body, **options: zipped(body, script=True, **options),
    "legacy": legacy,
}


def write(folder, data):
    path = folder / "m.pt"
    path.write_bytes(data)
    return path


def read_all(path, max_bytes=2**27):
    """Do with a file whatever can be done."""
    with open_file(path, max_bytes=max_bytes) as file:
        for layer in file.layers():
            if layer.problem is None:
                layer.read()
        return {key: file.read(key) for key in file.tensors}


def refused(path, match, max_bytes=2**27):
    with pytest.raises(FileFormatError, match=match) as caught:
        read_all(path, max_bytes)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 1000
    assert message.isprintable()


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_assembler_makes_files_that_are_read(container, tmp_path):
    body = b"}" + text("a") + tensor() + b"s"
    if container == "script":
        body = name("__torch__", "M") + b")\x81" + body + b"b"
    path = write(tmp_path, CONTAINERS[container](program(body)))
    assert read_all(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_python_2_wrote(tmp_path):
    """Its OrderedDict comes as a list of pairs, and its text as bytes."""
    short = lambda value: b"U" + bytes([len(value)]) + value.encode()  # noqa: E731
    held = b"(" + short("storage") + name("torch", "FloatStorage") + short("0") + short("cpu") + b"K\x06Nt" + b"Q"
    old = call(name("torch._utils", "_rebuild_tensor"), held, b"K\x00", b"K\x02K\x03\x86", b"K\x03K\x01\x86")
    body = call(name("collections", "OrderedDict"), b"](](" + short("a") + old + b"ee")
    keys = b"](" + short("0") + b"e"
    path = write(tmp_path, legacy(program(body), {"0": NUMBERS}, keys=keys))
    assert read_all(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_part_of_a_storage_in_an_old_file(tmp_path):
    view = many(text("v"), integer(2), integer(3))
    body = tensor(storage(extra=view), shape=(3,), strides=(1,))
    assert read_all(write(tmp_path, legacy(program(body))))["tensor"].tolist() == [2, 3, 4]
    for bad in (many(text("v"), integer(4), integer(3)), many(text("v"), integer(-1), integer(3)), integer(1)):
        body = tensor(storage(extra=bad), shape=(3,), strides=(1,))
        refused(write(tmp_path, legacy(program(body))), "refers to a part of the storage '0' that is not there")
    refused(write(tmp_path, zipped(program(tensor(storage(extra=view))))), "as only files before 1.6 do")


def test_untyped_storages_of_an_old_file_lie_as_the_writer_had_them(tmp_path):
    typed = tensor(
        storage("UntypedStorage", module="torch.storage", count=4), shape=(2,), strides=(1,),
        function=name("torch._utils", "_rebuild_tensor_v3"), last=name("torch", "uint16"),
    )  # fmt: skip
    for little, order in ((b"\x88", "<"), (b"\x89", ">")):
        data = np.array([1, 515], f"{order}u2").tobytes()
        machine = dictionary(little_endian=little)
        path = write(tmp_path, legacy(program(typed), {"0": data}, counts={"0": 4}, machine=machine))
        assert read_all(path)["tensor"].tolist() == [1, 515]


def test_typed_storages_of_an_old_file_are_little_endian(tmp_path):
    path = write(tmp_path, legacy(program(tensor()), machine=dictionary(little_endian=b"\x89")))
    assert read_all(path)["tensor"].tolist() == [[0, 1, 2], [3, 4, 5]]


# Files that want something done. Each of these pickles would run a command.


def commands(marker):
    """Programs that make a file of that name, if anything in them is run."""
    command = text(f"echo x > {marker}")
    import_module = call(name("importlib", "import_module"), text("os"))
    return {
        "os.system": (call(name("os", "system"), command), "asks for os.system, which no file of tensors needs"),
        "posix": (call(name("posix", "system"), command), r"asks for posix\.system"),
        "nt": (call(name("nt", "system"), command), r"asks for nt\.system"),
        "subprocess": (call(name("subprocess", "getoutput"), command), r"asks for subprocess\.getoutput"),
        "eval": (call(name("builtins", "eval"), text("1")), r"asks for builtins\.eval"),
        "exec of Python 2": (call(name("__builtin__", "exec"), text("1")), r"asks for __builtin__\.exec"),
        "getattr": (
            call(call(name("builtins", "getattr"), import_module, text("system")), command),
            r"asks for builtins\.getattr",
        ),
        "in an argument": (
            call(name("torch", "Size"), call(name("os", "system"), command)),
            r"asks for os\.system",
        ),
        "in what is thrown away": (call(name("os", "system"), command) + b"0" + EMPTY, r"asks for os\.system"),
        "stack global": (
            text("os") + text("system") + b"\x93" + many(command) + b"R",
            r"asks for os\.system",
        ),
        "instance": (b"(" + command + b"ios\nsystem\n", "uses the operation INST"),
        "object": (b"(" + name("os", "system") + command + b"o", r"asks for os\.system"),
        "new object": (name("os", "system") + many(command) + b"\x81", r"asks for os\.system"),
        "new object with keywords": (
            name("collections", "OrderedDict") + b")}\x92",
            "uses the operation NEWOBJ_EX",
        ),
        "reconstructor": (
            call(name("copy_reg", "_reconstructor"), name("collections", "OrderedDict")),
            r"asks for copy_reg\._reconstructor",
        ),
        "newobj": (call(name("copyreg", "__newobj__"), name("torch", "Size")), r"asks for copyreg\.__newobj__"),
        "partial": (call(name("functools", "partial"), name("os", "system")), r"asks for functools\.partial"),
        "torch.load": (call(name("torch.serialization", "load"), command), r"asks for torch\.serialization\.load"),
        "torch.hub": (call(name("torch.hub", "load"), command), r"asks for torch\.hub\.load"),
        "dots in a name": (
            text("torch") + text("_utils.os.system") + b"\x93" + many(command) + b"R",
            r"asks for torch\._utils\.os\.system",
        ),
        "dots in a global": (
            call(name("torch._utils", "_rebuild_tensor_v2.__globals__"), command),
            r"asks for torch\._utils\._rebuild_tensor_v2\.__globals__",
        ),
        "a name that is no text": (integer(1) + text("system") + b"\x93", "asks for a name that is no text"),
        "numpy.load": (call(name("numpy", "load"), command), r"asks for numpy\.load"),
        "runstring": (
            call(name("numpy.testing._private.utils", "runstring"), command, b"}"),
            r"asks for numpy\.testing\._private\.utils\.runstring",
        ),
        "a class of their own": (name("__main__", "Model") + b")\x81", r"asks for __main__\.Model.*state_dict"),
        "extension": (b"\x82\x01", "uses the operation EXT1"),
        "wide extension": (b"\x84\x01\0\0\0", "uses the operation EXT4"),
        "text identifier": (b"Pstorage\n", "uses the operation PERSID"),
        "a buffer": (b"\x97", "uses the operation NEXT_BUFFER"),
        "other identifier": (many(text("module"), text("os")) + b"Q", "refers to what is no storage"),
        "state of a dict": (b"}" + dictionary(__class__=integer(1)) + b"b", "gives dict a state"),
        "state with a class": (EMPTY + integer(1) + b"b", "gives dict a state that it cannot take: int"),
        "state of a list": (b"]" + dictionary(__setstate__=integer(1)) + b"b", "gives list a state"),
        "state of a function": (V2 + dictionary(__globals__=b"}") + b"b", "gives torch._utils.* a state"),
        "call of a container": (b"])R", "calls list with tuple"),
        "call of a result": (EMPTY + b")R", "calls dict with tuple"),
        "call of a type": (call(name("builtins", "list"), b"]"), "calls list with tuple"),
        "arguments that are no tuple": (V2 + b"]R", r"calls torch\._utils\._rebuild_tensor_v2 with list"),
        "a function through another": (
            call(name("torch._tensor", "_rebuild_from_type_v2"), name("torch", "Size"), name("torch", "Tensor"),
                 many(b")"), b"N"),
            "what it cannot take",
        ),
        "a function through itself": (
            call(name("torch._tensor", "_rebuild_from_type_v2"), name("torch._tensor", "_rebuild_from_type_v2"),
                 name("torch", "Tensor"), b")", b"N"),
            "what it cannot take",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("attack", commands(""))
def test_nothing_runs(attack, container, tmp_path):
    marker = tmp_path / "marker"
    body, match = commands(marker)[attack]
    path = write(tmp_path, CONTAINERS[container](program(body, protocol=4)))
    refused(path, match)
    assert not marker.exists()


@pytest.mark.skipif(os.name != "posix", reason="the command is a shell's")
@pytest.mark.parametrize("attack", ["os.system", "getattr", "in what is thrown away", "stack global", "instance"])
def test_the_same_run_in_pythons_machine(attack, tmp_path):
    """What the tests above show to be harmless here is harmful elsewhere: else they would show nothing."""
    marker = tmp_path / "marker"
    pickle.loads(program(commands(marker)[attack][0], protocol=4))
    assert marker.exists()


def test_classes_of_a_script_are_known_in_scripts_alone(tmp_path):
    body = program(name("__torch__.os", "system") + b")\x81" + dictionary(a=tensor()) + b"b")
    assert set(read_all(write(tmp_path, zipped(body, script=True)))) == {"a"}
    refused(write(tmp_path, zipped(body)), r"asks for __torch__\.os\.system")
    refused(write(tmp_path, legacy(body)), r"asks for __torch__\.os\.system")
    similar = program(name("__torch__os", "system") + b")\x81")
    refused(write(tmp_path, zipped(similar, script=True)), r"asks for __torch__os\.system")


def test_a_script_may_have_states_of_its_own(tmp_path):
    """A class with a state that is no dict has no attributes, and so no tensors."""
    inner = name("__torch__", "Packed") + b")\x81" + many(tensor()) + b"b"
    body = (
        name("__torch__", "M")
        + b")\x81"
        + dictionary(packed=inner, weight=tensor(), list=b"]" + tensor() + b"a")
        + b"b"
    )
    assert set(read_all(write(tmp_path, zipped(program(body), script=True)))) == {"weight"}


def test_a_script_with_constants_and_parameters_is_not_frozen(tmp_path):
    body = program(name("__torch__", "M") + b")\x81" + dictionary(weight=tensor()) + b"b")
    with open_file(write(tmp_path, zipped(body, entries={"constants/0": NUMBERS}, script=True))) as file:
        assert file.format == "TorchScript"


@pytest.mark.parametrize(
    ("kind", "dtype", "count"),
    [("ComplexHalf", "complex32", 6), ("QInt32", "qint32", 6), ("QUInt8", "quint8", 24)],
)
def test_storages_of_types_that_numpy_lacks(kind, dtype, count, tmp_path):
    path = write(tmp_path, zipped(program(tensor(storage(f"{kind}Storage", count=count)))))
    with open_file(path) as file:
        assert file.tensors["tensor"] == ((2, 3), dtype)
    path = write(tmp_path, zipped(program(tensor(storage(f"{kind}Storage", count=count + 1)))))
    refused(path, "bytes of the storage '0', and has 24")


def test_a_pickle_that_is_not_torchs(tmp_path):
    marker = tmp_path / "marker"
    for body in (
        program(commands(marker)["os.system"][0]),
        pickle.dumps({"a": 1}),
        pickle.dumps([1] * 1000),
        b"\x80",
    ):
        refused(write(tmp_path, body), "a pickle, but none of PyTorch's")
    assert not marker.exists()


# Arguments, sizes and containers that lie

QTENSOR = name("torch._utils", "_rebuild_qtensor")
ARRAY = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), sizes(0), text("b"))


def numpy_type(code="f8", order="<"):
    return call(name("numpy", "dtype"), text(code), b"\x89", b"\x88") + many(integer(3), text(order)) + b"b"


def array(shape=(2,), dtype=None, data=b"", fortran=b"\x89"):
    content = b"B" + struct.pack("<I", len(data)) + data
    return ARRAY + many(integer(1), sizes(*shape), dtype or numpy_type(), fortran, content) + b"b"


BUG = 10**30
LONG = 2**62
SPARSE = name("torch._utils", "_rebuild_sparse_tensor")
LAYOUT = call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo"))
LIES = {
    "offset": (tensor(offset=1), "the tensor 'tensor' reaches beyond its storage '0', which has 24 bytes"),
    "negative offset": (tensor(offset=-1), "negative stride or place"),
    "huge offset": (tensor(offset=BUG), "reaches beyond its storage"),
    "size": (tensor(shape=(3, 3)), "reaches beyond its storage"),
    "negative size": (tensor(shape=(-2, 3)), "has sizes that no tensor has"),
    "two negative sizes": (tensor(shape=(-2, -3)), "has sizes that no tensor has"),
    "huge size": (tensor(shape=(LONG, LONG)), "has sizes that no tensor has"),
    "huge beside nothing": (tensor(shape=(0, LONG)), "has sizes that no tensor has"),
    "size of many bits": (tensor(shape=(BUG, 1)), "cannot take"),
    "huge expanded": (tensor(shape=(2**58,), strides=(0,)), "takes .* bytes, and of max_bytes"),
    "stride": (tensor(strides=(4, 1)), "reaches beyond its storage"),
    "negative stride": (tensor(offset=5, strides=(-3, -1)), "negative stride"),
    "huge stride": (tensor(strides=(LONG, 1)), "reaches beyond its storage"),
    "stride of many bits": (tensor(strides=(BUG, 1)), "cannot take"),
    "strides missing": (tensor(strides=(1,)), "has 2 axes and 1 strides"),
    "axes": (tensor(shape=(1,) * 65, strides=(1,) * 65), "cannot take"),
    "sparse of sparse": (
        call(SPARSE, LAYOUT, many(b"N", call(SPARSE, LAYOUT, many(b"N", tensor(), sizes(2))), sizes(2))),
        r"gives torch\._utils\._rebuild_sparse_tensor what it cannot take",
    ),
    "many flags": (tensor(last=dictionary(conj=b"\x88", neg=b"\x88") + text("neg") + b"\x88s"), "cannot take"),
    "layout of a type": (
        call(SPARSE, name("torch", "int8"), many(integer(0), tensor(), sizes(2))), "what it cannot take"
    ),
    "sizes that are text": (
        call(V2, storage(), integer(0), many(text("a")), sizes(1), b"\x89", EMPTY), "cannot take"
    ),
    "sizes that are truth values": (
        call(V2, storage(), integer(0), many(b"\x88"), sizes(1), b"\x89", EMPTY), "cannot take"
    ),
    "a size that is no tuple": (
        call(V2, storage(), integer(0), integer(6), sizes(1), b"\x89", EMPTY), "cannot take"
    ),
    "offset that is text": (call(V2, storage(), text("0"), sizes(6), sizes(1), b"\x89", EMPTY), "cannot take"),
    "no arguments": (V2 + b")R", r"gives torch\._utils\._rebuild_tensor_v2 what it cannot take: \(\)"),
    "many arguments": (V2 + many(*[b"N"] * 50) + b"R", "None, None, ..."),
    "no storage": (call(V2, b"N", integer(0), sizes(6), sizes(1), b"\x89", EMPTY), "cannot take"),
    "a tensor for a storage": (call(V2, tensor(), integer(0), sizes(6), sizes(1), b"\x89", EMPTY), "cannot take"),
    "flags": (tensor(last=integer(1)), "cannot take"),
    "unknown flag": (tensor(last=dictionary(other=b"\x88")), "cannot take"),
    "flag of a type without": (
        tensor(storage("IntStorage"), last=dictionary(conj=b"\x88")), "is conjugated or negated, and of type int32"
    ),
    "missing storage": (tensor(storage(key="1")), "has no entry for the storage '1'|'0' twice, or no"),
    "storage outside": (tensor(storage(key="../version")), r"no entry for .* '\.\./version'|twice, or no"),
    "storage of the pickle": (tensor(storage(key="0/../../data.pkl")), "no entry for the storage|twice, or no"),
    "count": (tensor(storage(count=5), shape=(5,), strides=(1,)), "declares (20 bytes|5 elements) of the"),
    "negative count": (tensor(storage(count=-1)), "a number of elements that no storage has"),
    "huge count": (tensor(storage(count=BUG)), "a number of elements that no storage has"),
    "type of the storage": (tensor(storage("DoubleStorage", count=3), shape=(3,), strides=(1,)), None),
    "storage that is no type": (
        b"(" + text("storage") + integer(1) + text("0") + text("cpu") + integer(6) + b"tQ", "no storage"
    ),
    "typed over another type": (
        tensor(function=name("torch._utils", "_rebuild_tensor_v3"), last=name("torch", "int32")),
        "is of type int32, and its storage holds float32",
    ),
    "type that is none": (
        tensor(function=name("torch._utils", "_rebuild_tensor_v3"), last=name("torch", "Tensor")), "cannot take"
    ),
    "untyped as it is": (tensor(storage("UntypedStorage", module="torch.storage", count=24)), "cannot take"),
    "size of a size": (call(name("torch", "Size"), integer(BUG)), "cannot take"),
    "parameter of nothing": (
        call(name("torch._utils", "_rebuild_parameter"), b"N", b"\x88", EMPTY), "cannot take"
    ),
    "bytes to allocate": (call(name("builtins", "bytearray"), integer(10**12)), r"gives bytearray .* \(int\)"),
    "bytes of a codec": (call(name("_codecs", "encode"), text("a"), text("rot13")), "cannot take"),
    "text beyond a codec": (call(name("_codecs", "encode"), text("字"), text("latin1")), "cannot take"),
    "set of a number": (call(name("builtins", "set"), integer(5)), "cannot take"),
    "dict of a number": (call(name("collections", "OrderedDict"), integer(5)), "cannot take"),
    "dict of odd pairs": (call(name("collections", "OrderedDict"), b"](](K\x01ee"), "cannot take"),
    "deque of a number": (call(name("collections", "deque"), integer(5)), "cannot take"),
    "namespace of something": (call(name("argparse", "Namespace"), integer(5)), "cannot take"),
    "array of another class": (
        call(name("numpy.core.multiarray", "_reconstruct"), name("torch", "Tensor"), sizes(0), text("b")),
        "cannot take",
    ),
    "array of few bytes": (array((2,), data=b"\0" * 15), "beyond its storage in the pickle, which has 15 bytes"),
    "array of huge size": (array((LONG, LONG)), "has sizes that no tensor has"),
    "array of a size of many bits": (array((BUG,)), "gives NumpyArray a state"),
    "array of negative size": (array((-1,)), "has sizes that no tensor has"),
    "array of many axes": (array((1,) * 100, data=b"\0" * 8), "gives NumpyArray a state"),
    "array of strange numbers": (array((1,), numpy_type("f16"), b"\0" * 16), "f16, which NumPy does not have"),
    "array whose bytes are none": (
        ARRAY + many(integer(1), sizes(1), numpy_type(), b"\x89", b"]") + b"b", "gives NumpyArray a state"
    ),
    "array without a state": (ARRAY + integer(1) + b"b", "gives NumpyArray a state that it cannot take: int"),
    "type by a long code": (call(name("numpy", "dtype"), text("f8,f8,f8")), "cannot take"),
    "type by an object": (call(name("numpy", "dtype"), EMPTY), "cannot take"),
    "type with an order of its own": (numpy_type(order="?"), "gives NumpyType a state"),
    "scalar of no type": (call(name("numpy.core.multiarray", "scalar"), text("f8"), text("x")), "cannot take"),
    "key without a name": (
        b"}" + b")" + tensor() + b"s", "a tensor in the object lies under a key that is no text or number: tuple"
    ),
    "key that is a list": (dictionary(a=b"}" + b"]" + b"]" + tensor() + b"as"), "a tensor in 'a.' lies .*: list"),
    "name thrice": (
        b"}" + (text("a") + tensor() + b"s") * 2 + text("a (1)") + tensor() + b"s",
        r"two entries come to the same name, 'a \(1\)'",
    ),
    "name that is no text": (b"}" + text("\ud800") + tensor() + b"s", r"a name that is no text: '\\ud800'"),
    "long name": (b"}" + text("a" * 5000) + tensor() + b"s", "nested too deep, or a name of more than"),
    "list in itself": (b"]q\x00h\x00a", "'0' is inside of itself"),
    "dict in itself": (b"}q\x00" + text("a") + b"](h\x00es", r"'a\.0' is inside of itself"),
    "tuple in itself": (b"]q\x00h\x00\x85a", r"'0\.0' is inside of itself"),
    "control characters": (b"}q\x00" + text("\x1b[31m\r") + b"h\x00s", r"'\\x1b\[31m\\r' is inside of itself"),
    "control characters on the way": (
        dictionary(**{"\x1b": b"})" + tensor() + b"s"}), r"a tensor in '\\x1b\.' lies under a key"
    ),
    "attributes of itself": (
        name("argparse", "Namespace") + b")Rq\x01}q\x00bh\x00" + text("a") + b"h\x01s0",
        "'a' is inside of itself",
    ),
    "deep": (b"]" * 30_000 + tensor() + b"a" * 30_000, "nested too deep"),
    "deep tuples": (tensor() + b"\x85" * 30_000, "nested too deep"),
    "deep dicts": (b"}K\x01" * 20_000 + tensor() + b"s" * 20_000, "nested too deep"),
    "doubling": (b"]" + tensor() + b"a" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(60)),
        "shared lists and dicts come to more than 50,4"),
    "huge integer": (b"\x8b" + struct.pack("<I", 300) + b"\x7f" * 300, "has an integer of 2,399 bits"),
    "huge integer as text": (b"I" + b"9" * 4000 + b"\n", "has an integer of"),
    "integer beyond text": (b"L" + b"9" * 5000 + b"L\n", "not a whole pickle"),
}  # fmt: skip


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("lie", LIES)
def test_lies_are_found_out(lie, container, tmp_path):
    body, match = LIES[lie]
    path = write(tmp_path, CONTAINERS[container](program(body)))
    if match is None:  # as many bytes, and other numbers: only the count beside an old file's storage tells
        if container == "legacy":
            refused(path, "declares 3 elements of the storage '0', and has 6")
        else:
            assert read_all(path)["tensor"].dtype == np.float64
        return
    refused(path, match)


READ = {
    "numbers after a name that two have": (
        b"}" + text("a.b") + tensor() + b"s" + text("a") + dictionary(b=tensor(shape=(3,), strides=(1,))) + b"s",
        {"a.b (1)": (2, 3), "a.b (2)": (3,)},
    ),
    "number and text": (
        b"}" + integer(1) + tensor() + b"s" + text("1") + tensor() + b"s" + text("b") + tensor() + b"s",
        {"1 (1)": (2, 3), "1 (2)": (2, 3), "b": (2, 3)},
    ),
    "keys without names, over no tensor": (
        b"}" + text("a") + tensor() + b"s" + b")" + b"](K\x01K\x02es" + b"]" + b"}s" + b"C\x01xK\x01s",
        {"a": (2, 3)},
    ),
    "doubling of nothing": (b"]" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(60)), {}),
    "attributes doubled": (name("argparse", "Namespace") + b")R" + dictionary(a=tensor()) + b"b" + b"2b" * 60,
        {"a": (2, 3)}),
    "deep, and nothing there": (b"]" * 20_000 + b"a" * 19_999, {}),
    "one list in two places": (b"]" + tensor() + b"aq\x000](h\x00h\x00e", {"0.0": (2, 3), "1.0": (2, 3)}),
    "one element, any stride": (tensor(shape=(1, 3), strides=(2**63 - 1, 1)), {"tensor": (1, 3)}),
    "as many axes as there may be": (tensor(shape=(1,) * 64, strides=(LONG,) * 64), {"tensor": (1,) * 64}),
    "array of the other order": (array((2,), numpy_type("i2", ">"), b"\0\0\0\1"), {"tensor": (2,)}),
    "array in Fortran's order": (array((2, 2), numpy_type("i1"), b"\0\2\1\3", b"\x88"), {"tensor": (2, 2)}),
    "empty containers": (b"](" + b")" * 9 + b"]" + b"}" + tensor() + b"e", {"11": (2, 3)}),
    "tensor alone": (tensor(), {"tensor": (2, 3)}),
    "longest name": (dictionary(**{"a" * 4096: tensor()}), {"a" * 4096: (2, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("what", READ)
def test_odd_and_harmless(what, container, tmp_path):
    body, shapes = READ[what]
    read = read_all(write(tmp_path, CONTAINERS[container](program(body))))
    assert {key: array.shape for key, array in read.items()} == shapes
    for array in read.values():
        assert array.ravel().tolist() == list(range(array.size))


DAMAGED = {
    "nothing": b"",
    "no stop": b"\x80\x02K\x01",
    "only a stop": b".",
    "leftovers": b"K\x01K\x02.",
    "open mark": b"(K\x01.",
    "no mark": b"t.",
    "no mark for a list": b"]e.",
    "no mark for items": b"}u.",
    "below a mark": b"K\x01(\x85.",
    "key without value": b"}(K\x01u.",
    "append to a dict": b"}K\x01a.",
    "append to a tuple": b")K\x01a.",
    "items of a list": b"]K\x01K\x02s.",
    "empty stack": b"R.",
    "nothing to build": b"K\x01b.",
    "empty memory": b"h\x05.",
    "pop of nothing": b"0.",
    "duplicate of nothing": b"2.",
    "put of nothing": b"q\x00.",
    "unknown operation": b"\xff.",
    "future protocol": b"\x80\x09K\x01.",
    "bad number": b"Iabc\n.",
    "bad float": b"Fabc\n.",
    "bad text": b"X\x02\0\0\0\xff\xfe.",
    "bad escape": b"S'\\x'\n.",
    "odd escape": b"S'\\d'\n.",
    "no quotes": b"Sabc\n.",
    "bad name": b"c\xff\n\xfe\n.",
    "one line of a name": b"cos.",
    "short text": b"X\xff\xff\xff\x7fabc.",
    "negative length": b"T\xff\xff\xff\xffabc.",
    "negative integer length": b"\x8b\xff\xff\xff\xff.",
    "huge bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "bytes beyond sizes": b"\x8e" + struct.pack("<Q", 2**63) + b"abc.",
    "huge array of bytes": b"\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "huge text": b"\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "endless line": b"I" + b"1" * 100_000,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_pickles(what, container, tmp_path):
    path = write(tmp_path, CONTAINERS[container](DAMAGED[what]))
    if what == "odd escape":  # a warning of Python's, and an error only where warnings are
        refused(path, "not a whole pickle|storage")
    else:
        refused(
            path, "not a whole pickle|as to a list|as of a dict|cannot take|protocol 9|no list of its storages"
        )


def test_places_in_memory_cost_nothing(tmp_path):
    """A list of them, as Python's own machine has, would take gigabytes."""
    body = program(EMPTY + b"r\xff\xff\xff\xff" + b"0" + b"j\xff\xff\xff\xff" + b"\x95" + struct.pack("<Q", 2**62))
    path = write(tmp_path, zipped(body))
    tracemalloc.start()
    assert read_all(path) == {}
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_what_a_pickle_makes_is_counted(tmp_path, monkeypatch):
    body = program(b"](" + b"}" * 200_000 + b"e")
    refused(
        write(tmp_path, zipped(body)), "what a pickle makes takes 128 bytes, and of max_bytes=1,000,000", 10**6
    )
    refused(write(tmp_path, zipped(body, method=zipfile.ZIP_DEFLATED)), "'m/data.pkl' takes 200", 10**5)
    refused(write(tmp_path, legacy(body)), "of max_bytes=1,000,000", 10**6)
    monkeypatch.setattr(unpickler, "_MOST_STEPS", 1000)
    refused(write(tmp_path, zipped(body)), "more than 1,000 operations")


LIST = b"](" + b"N" * 20_000 + b"eq\x000"
TEXT = text("x" * 200_000) + b"q\x000"
ROW = b"(" + b"K\x01" * 20_000 + b"tq\x000"
ITEMS = b"}(" + b"NN" * 10_000 + b"uq\x000"
AGAIN = {
    "copies of a list": (LIST, name("builtins", "set"), b"h\x00\x85R", "what a pickle makes takes 2,560,000"),
    "copies of a dict": (ITEMS, name("collections", "OrderedDict"), b"h\x00\x85R", "takes 1,280,000"),
    "pairs of a list": (
        b"](" + b"NN\x86" * 10_000 + b"eq\x000", name("collections", "OrderedDict"), b"h\x00\x85R", "takes 1,280,"
    ),
    "bytes from a text": (
        TEXT + text("latin1") + b"q\x020", name("_codecs", "encode"), b"h\x00h\x02\x86R", "takes 200,000"
    ),
    "an array from a text": (
        TEXT + numpy_type("u1") + b"q\x020" + sizes(200_000) + b"q\x030",
        name("numpy.core.multiarray", "_reconstruct"),
        name("numpy", "ndarray") + b"\x85R(K\x01h\x03h\x02\x89h\x00tb",
        "takes 200,000",
    ),
    "strides of what cannot be": (
        numpy_type("u1") + b"q\x020" + sizes(*[LONG] * 64) + b"q\x030",
        name("numpy.core.multiarray", "_reconstruct"),
        name("numpy", "ndarray") + b"\x85R(K\x01h\x03h\x02\x89C\0tb",
        "what a pickle makes takes",
    ),
    "states": (ITEMS, EMPTY, b"h\x00b", "takes 1,280,000"),
    "arguments": (ROW, name("builtins", "complex"), b"h\x00R", "takes 2,560,000"),
    "sizes": (ROW, name("torch", "Size"), b"h\x00\x85R", r"gives torch\.Size what it cannot take|2,560,000"),
    "a key": (TEXT, b"N", storage(key="h").replace(text("h"), b"h\x00"), "by a name of 200,000 characters"),
}  # fmt: skip


@pytest.mark.parametrize("what", AGAIN)
def test_what_a_function_is_given_is_counted_each_time(what, tmp_path):
    """A few bytes give a function the same list again and again: memory, and time, that no operation shows."""
    shared, function, again, match = AGAIN[what]
    body = shared + function + b"q\x010" + b"](" + (b"h\x01" + again) * 3000 + b"e"
    path = write(tmp_path, zipped(program(body)))
    tracemalloc.start()
    refused(path, match, max_bytes=10_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_there_is_an_end_to_operations_whatever_the_memory(tmp_path):
    body = LIST + name("builtins", "set") + b"q\x010" + b"h\x01h\x00\x85R0" * 500 + b"N"
    refused(write(tmp_path, zipped(program(body))), "asks for more than 10,000,000 operations", 2**40)
    body = LIST + name("builtins", "set") + b"q\x010" + b"h\x01h\x00\x85R0" * 490 + b"N"
    assert read_all(write(tmp_path, zipped(program(body))), 2**40) == {}


def test_modules_that_stand_in_many_places(tmp_path):
    """One of 20,000 attributes is gone through once where there is no parameter in it, and else not endlessly."""
    start, end = name("__torch__", "A") + b")R}(" + b"K\x01N" * 20_000, b"ubq\x000"
    places = b"".join(text(str(number)) + b"h\x00" for number in range(500))
    root = name("__torch__", "B") + b")R}(" + places + b"ub"
    assert read_all(write(tmp_path, zipped(program(start + end + root), script=True))) == {}
    body = start + text("a") + tensor() + end + root
    refused(write(tmp_path, zipped(program(body), script=True)), "come to more than 9")


def test_names_that_every_storage_keeps_are_short(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(f"{'m' * 256}/data.pkl", program(tensor()))
        archive.writestr(f"{'m' * 256}/data/0", NUMBERS)
    refused(write(tmp_path, data.getvalue()), "its folder has a name of 256 characters")
    key = "k" * 101
    refused(write(tmp_path, zipped(program(tensor(storage(key=key))), {key: NUMBERS})), "name of 101 characters")
    assert read_all(write(tmp_path, zipped(program(tensor(storage(key=key[1:]))), {key[1:]: NUMBERS})))


@pytest.mark.parametrize("long", ["module", "name"])
def test_long_names_of_classes(long, tmp_path):
    module = "__torch__" + (".x" * 2048 if long == "module" else "")
    body = text(module) + text("y" * 4097 if long == "name" else "y") + b"\x93"
    path = write(tmp_path, zipped(program(body), script=True))
    refused(path, "asks for a name of more than 4,096 characters")


def test_names_of_classes_are_shown_cut_and_escaped(tmp_path):
    body = text("__torch__.\x1b[31m\r\n" + "\U0001f600" * 1000) + text("A") + b"\x93NR"
    path = write(tmp_path, zipped(program(body), script=True))
    refused(path, r"calls __torch__\.\\x1b\[31m\\r\\n(\\U0001f600)+\\\w+ with")


def test_the_text_of_names_is_counted(tmp_path):
    one = tensor(shape=(1,), strides=(1,))
    body = one + b"q\x000}" + text("字" * 2000) + b"](" + b"h\x00" * 3000 + b"es"
    refused(write(tmp_path, zipped(program(body))), "the list of its tensors takes 5,1", 12_000_000)


def test_what_is_not_read_is_not_counted(tmp_path):
    """Lines are asked for by the length that none has; what of it there is not, is given back."""
    path = write(tmp_path, zipped(program(b"](" + b"I1\n" * 2000 + b"e")))
    assert read_all(path, max_bytes=2**19) == {}


def test_what_lay_between_elements_is_given_back(tmp_path):
    body = program(tensor(shape=(2,), strides=(10**6,), held=storage(count=10**6 + 1)))
    with open_file(write(tmp_path, zipped(body, {"0": bytes(4 * 10**6 + 4)})), max_bytes=5 * 10**6) as file:
        assert [file.read("tensor").tolist() for _ in range(3)] == [[0, 0]] * 3


def test_errors_of_numpy_become_ours(tmp_path, monkeypatch):
    def fails(*_):
        raise OverflowError("Python int too large to convert to C long")

    monkeypatch.setattr(storages, "as_strided", fails)
    refused(write(tmp_path, zipped(program(tensor()))), "the tensor 'tensor' cannot be read: Python int too large")


@pytest.mark.parametrize(
    ("module", "attribute", "advised"),
    [
        ("torch.nn.modules.rnn", "LSTM", True), ("torch.optim.adam", "Adam", True), ("mine", "Model", True),
        ("torch.ao.nn.quantized.dynamic.modules.rnn", "LSTM", True), ("torchvision.models", "ResNet", True),
        ("torch._utils", "_rebuild_nested_tensor", False), ("torch", "ScriptObject", False),
        ("uuid", "UUID", False), ("copy_reg", "_reconstructor", False),
    ],
)  # fmt: skip
def test_advice_where_it_helps(module, attribute, advised, tmp_path):
    """State dicts of quantised modules, and nested tensors, ask for torch's own: that is what was saved."""
    path = write(tmp_path, zipped(program(name(module, attribute))))
    with pytest.raises(FileFormatError, match=f"asks for {module}.{attribute}") as caught:
        read_all(path)
    assert ("save model.state_dict()" in str(caught.value)) is advised


def test_a_tensor_beyond_what_is_allowed(tmp_path):
    body = program(tensor(shape=(1000, 1000), strides=(0, 1), held=storage(count=1000)))
    path = write(tmp_path, zipped(body, {"0": bytes(4000)}))
    assert read_all(path)["tensor"].shape == (1000, 1000)
    refused(path, r"the tensor 'tensor' takes 4,000,000 bytes", max_bytes=10**6)
    body = program(tensor(shape=(2,), strides=(10**6,), held=storage(count=10**6 + 1)))
    path = write(tmp_path, zipped(body, {"0": bytes(4 * 10**6 + 4)}))
    assert read_all(path)["tensor"].tolist() == [0, 0]
    refused(path, "what lies between its elements takes", max_bytes=10**6)


def test_overlapping_elements_are_only_read(tmp_path):
    path = write(tmp_path, zipped(program(tensor(shape=(4, 3), strides=(1, 1)))))
    assert read_all(path)["tensor"].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


# Archives and old files that are not whole


@pytest.mark.parametrize("name", ["zip", "legacy", "scripted", "types_legacy"])
def test_truncated_files(name, tmp_path):
    data = (FOLDER / f"{name}.pt").read_bytes()
    for length in [*range(60), *np.linspace(60, len(data) - 1, 120, dtype=int)]:
        with pytest.raises(FileFormatError, match=r"m\.pt: "):
            read_all(write(tmp_path, data[:length]))


def test_a_wrong_checksum(tmp_path):
    data = zipped(program(tensor()))
    path = write(tmp_path, data.replace(NUMBERS, bytes(len(NUMBERS))))
    refused(path, "'m/data/0' is damaged: checksum")
    pickled = program(tensor())
    refused(write(tmp_path, data.replace(pickled, pickled[:-3] + b"N0.")), r"'m/data\.pkl' is damaged: checksum")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_lie(tmp_path):
    body = program(tensor())
    refused(write(tmp_path, zipped(body, {"0": NUMBERS[:-4]})), "declares 24 bytes of the storage '0', and has 20")
    refused(write(tmp_path, zipped(body, entries={"byteorder": b"middle"})), "byteorder is neither little nor big")
    refused(write(tmp_path, zipped(body, entries={"byteorder": b"little" * 1000})), "byteorder is neither")
    refused(write(tmp_path, zipped(body, entries={"nplstm.json": b"[1]"})), r"nplstm\.json is not text")
    refused(write(tmp_path, zipped(body, entries={"../other": b"x"})), "leads out of the archive")
    refused(write(tmp_path, zipped(body, entries={"a/data.pkl": body})), "expected one data.pkl")
    refused(write(tmp_path, zipped(body, entries={"model.json": b"{}"})), "TorchScript in its first format")
    refused(write(tmp_path, zipped(body, entries={".data/extern_modules": b""})), r"torch\.package archive")
    file = io.BytesIO(zipped(body))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("m/data/0", NUMBERS)
    refused(write(tmp_path, file.getvalue()), "two entries 'm/data/0'")


def test_packed_entries(tmp_path):
    """Torch packs none; those that are packed are read, and what they come to is counted and compared."""
    body = program(tensor(storage(count=10**6), shape=(10**6,), strides=(1,)))
    data = zipped(body, {"0": bytes(4 * 10**6)}, method=zipfile.ZIP_DEFLATED)
    assert len(data) < 10_000
    path = write(tmp_path, data)
    assert not read_all(path)["tensor"].any()
    refused(path, "the tensor 'tensor' takes 4,000,000 bytes", max_bytes=10**6)
    bomb = zipped(program(tensor()), {"0": bytes(4 * 10**6)}, method=zipfile.ZIP_DEFLATED)
    lying = bomb.replace(struct.pack("<I", 4 * 10**6), struct.pack("<I", 24))
    refused(write(tmp_path, lying), "holds more than the 24 bytes it declares")


def test_old_files_that_lie(tmp_path):
    body = program(tensor())
    refused(write(tmp_path, legacy(body, version=1000)), "of another version than 1001")
    refused(write(tmp_path, legacy(body, magic=7)), "a pickle, but none of PyTorch's")
    refused(write(tmp_path, legacy(body, machine=b"]")), "does not say what machine wrote it")
    refused(write(tmp_path, legacy(body, machine=dictionary(little_endian=b"]"))), "does not say what machine")
    refused(write(tmp_path, legacy(body, machine=storage())), "asks for torch.FloatStorage")
    refused(write(tmp_path, legacy(body, keys=b"}")), "has no list of its storages, but dict")
    refused(write(tmp_path, legacy(body, keys=b"]K\x01a")), "has a storage by no name, but int")
    refused(write(tmp_path, legacy(body, keys=b"]" + text("1") + b"a")), "the storage '1' twice, or no tensor")
    refused(write(tmp_path, legacy(body, {"0": NUMBERS, "1": NUMBERS})), "the storage '1' twice, or no tensor")
    twice = b"](" + text("0") * 2 + b"e"
    refused(
        write(tmp_path, legacy(body, {"0": NUMBERS * 3}, keys=twice, counts={"0": 6})),
        "the storage '0' twice|has ",
    )
    again = legacy(body, {"0": NUMBERS}, keys=twice) + struct.pack("<q", 6) + NUMBERS
    refused(write(tmp_path, again), "the storage '0' twice")
    with pytest.raises(FileFormatError, match="ends inside of the storage '0'"):
        open_file(write(tmp_path, legacy(body)[:-1]))
    refused(write(tmp_path, legacy(body, keys=b"]")), "has no storage '0', which its tensors use")
    refused(write(tmp_path, legacy(body, counts={"0": -6})), "declares 6 elements of the storage '0', and has -6")
    refused(write(tmp_path, legacy(body, {"0": NUMBERS[:-1]}, counts={"0": 6})), "ends inside of the storage '0'")
    two = many(tensor(), tensor(storage(count=7)))
    refused(write(tmp_path, legacy(program(two))), "declares 24 bytes of the storage '0', and then 28")


# In part


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_part_of_a_large_file_takes_no_more_memory(container, tmp_path):
    """One small LSTM, and views into a storage, beside 96 MB of other numbers."""
    lstm = nplstm.LSTM(64, 128, rng=0)
    storages = {"0": bytes(48 * 2**20), "1": bytes(48 * 2**20)}
    count = 12 * 2**20
    items = {"large": tensor(storage(count=count), shape=(count,), strides=(1,))}
    items["part"] = tensor(storage(key="1", count=count), offset=count - 7, shape=(7,), strides=(1,))
    for key, weights in lstm.parameters.items():
        storages[key] = weights.tobytes()
        strides = tuple(stride // 4 for stride in weights.strides)
        items[f"lstm.{key}"] = tensor(storage(key=key, count=weights.size), shape=weights.shape, strides=strides)
    path = write(tmp_path, CONTAINERS[container](program(dictionary(**items)), storages))
    del storages
    tracemalloc.start()
    loaded = nplstm.load(path)
    with open_file(path, max_bytes=2**20) as file:
        assert file.read("part").tolist() == [0] * 7
        with pytest.raises(FileFormatError, match="'large' takes 50,331,648 bytes, and of max_bytes=1,048,576"):
            file.read("large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2**20  # the weights, 400 KB, a few times; a piece of 1 MiB for the checksum
    assert all(np.array_equal(loaded.parameters[key], array) for key, array in lstm.parameters.items())


# Damage at random


def rewritten(data, place, changed):
    """The same archive with other bytes in one of its entries, and the checksum to go with them."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        entries = [(info.filename, old.read(info)) for info in old.infolist()]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for entry, content in entries:
            new.writestr(entry, changed(content) if entry.endswith(place) else content)
    return file.getvalue()


MANY = max(500, 20 * hypothesis.settings().max_examples)
"""500 or more, and 10,000 where the settings ask for thoroughness."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


# Parts of programs that are put in among others
PARTS = [
    b"N", b"\x88", b"]", b"}", b")", b"K\x02", text("a"), text("0"), integer(-1), integer(BUG), b"G" + bytes(8),
    b"C\x04abcd", storage(), tensor(), EMPTY, ARRAY, numpy_type(), sizes(2, 3), b"R", b"b", b"\x81", b"(", b"t",
    b"0", b"2", b"Q", b"a", b"s", b"e", b"u", b"\x85", b"\x86", b"q\x00", b"h\x00", b"\x94", b"\x90", b"\x93",
    *(name(*known) for known in allowed_globals._ALLOWED),
]  # fmt: skip
PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(
    st.tuples(PLACES, st.sampled_from(["put in", "replace", "leave out", "copy"]), st.sampled_from(PARTS), PLACES),
    min_size=1,
    max_size=4,
)


def operations(pickled):
    """The operations of a pickle, each as its bytes."""
    places = [place for _, _, place in pickletools.genops(pickled)]
    return [pickled[start:stop] for start, stop in itertools.pairwise([*places, len(pickled)])]


def edited(pickled, edits):
    parts = operations(pickled)
    for place, how, part, other in edits:
        at = 2 + int(place * (len(parts) - 3))
        if how == "leave out":
            del parts[at]
        elif how == "put in":
            parts.insert(at, part)
        else:
            parts[at] = part if how == "replace" else parts[int(other * len(parts))]
    return b"".join(parts)


def test_an_error_that_is_not_ours_is_seen(tmp_path, monkeypatch):
    path = write(tmp_path, zipped(b"\x80\x02R."))
    check_errors(path)
    monkeypatch.setattr(unpickler.Unpickler, "top", lambda self: self._stack[-1])
    with pytest.raises(IndexError):
        check_errors(path)


@hypothesis.settings(max_examples=MANY)
@given(st.sampled_from([name for name in FILES if "legacy" not in name]), EDITS)
def test_whatever_is_asked_for_the_errors_are_ours(scratch, name, edits):
    """Torch's own programs with other operations and names among them, and checksums that fit."""
    data = (FOLDER / f"{name}.pt").read_bytes()
    check_errors(write(scratch, rewritten(data, "data.pkl", lambda pickled: edited(pickled, edits))))


def check_errors(path):
    try:
        read_all(path)
        nplstm.load(path, max_bytes=2**24)
    except NplstmError as error:
        message = str(error)
    else:
        message = f"{path}: all is well"  # as where what was changed is a number
    assert message.startswith(f"{path}: ")


FLIPS = st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=6)


@hypothesis.settings(max_examples=MANY)
@given(st.sampled_from(FILES), st.booleans(), FLIPS, st.none() | st.floats(0, 1))
def test_whatever_the_bytes_are_the_errors_are_ours(scratch, name, inside, flips, cut):
    def changed(data):
        spoilt = bytearray(data)
        for place, value in flips:
            spoilt[int(place * len(spoilt))] = value
        return bytes(spoilt if cut is None else spoilt[: int(cut * len(spoilt))])

    data = (FOLDER / f"{name}.pt").read_bytes()
    if inside and data.startswith(b"PK"):
        data = rewritten(data, "data.pkl", changed)
    elif inside:
        data = changed(data[:2000]) + data[2000:]
    else:
        data = changed(data)
    check_errors(write(scratch, data))
