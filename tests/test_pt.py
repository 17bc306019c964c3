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
from nplstm.io.pt import machine, names, stored

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
    monkeypatch.setitem(stored.NUMPY_CODES, "int32", "u4")
    with pytest.raises(AssertionError):
        check_equal(read_tensors(FOLDER / "types.pt")["int32"], expected("types")[0]["int32"])
    monkeypatch.setattr(stored, "as_strided", lambda flat, shape, strides: np.resize(flat, shape))
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
        "long": 2**100, "none": None, "float": 1.5,
    }  # fmt: skip
    held = {"in a namespace": argparse.Namespace(weight=torch.ones(2))}
    nested = {"list": [found, (found["float32"],)], "number": {3: found["bool"], None: found["int8"]}}
    torch.save({**found, "others": others, **held, **nested}, tmp_path / "m.pt", **SAVERS[saver])
    read = read_tensors(tmp_path / "m.pt")
    wanted = dict(found) | {"in a namespace.weight": torch.ones(2)}
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
            with pytest.raises(FileFormatError, match=r"m\.pt: the tensor '.*' is .*, which NumPy does not have"):
                file.read(name)
        assert np.array_equal(file.read("good"), np.eye(3))
    torch.save(torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), tmp_path / "n.pt")
    with pytest.raises(FileFormatError, match=r"n\.pt: asks for torch\._utils\._rebuild_nested_tensor"):
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
LIES = {
    "offset": (tensor(offset=1), "the tensor 'tensor' reaches beyond its storage '0', which has 24 bytes"),
    "negative offset": (tensor(offset=-1), "negative stride or place"),
    "huge offset": (tensor(offset=BUG), "reaches beyond its storage"),
    "size": (tensor(shape=(3, 3)), "reaches beyond its storage"),
    "negative size": (tensor(shape=(-2, 3)), "has sizes that no tensor has"),
    "two negative sizes": (tensor(shape=(-2, -3)), "has sizes that no tensor has"),
    "huge size": (tensor(shape=(BUG, BUG)), "has sizes that no tensor has"),
    "huge beside nothing": (tensor(shape=(0, BUG)), "has sizes that no tensor has"),
    "huge expanded": (tensor(shape=(2**58,), strides=(0,)), "takes .* bytes, and of max_bytes"),
    "stride": (tensor(strides=(4, 1)), "reaches beyond its storage"),
    "negative stride": (tensor(offset=5, strides=(-3, -1)), "negative stride"),
    "huge stride": (tensor(strides=(BUG, 1)), "reaches beyond its storage"),
    "strides missing": (tensor(strides=(1,)), "has 2 axes and 1 strides"),
    "axes": (tensor(shape=(1,) * 100, strides=(1,) * 100), "has 100 axes"),
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
    "namespace of something": (call(name("argparse", "Namespace"), integer(5)), "cannot take"),
    "array of another class": (
        call(name("numpy.core.multiarray", "_reconstruct"), name("torch", "Tensor"), sizes(0), text("b")),
        "cannot take",
    ),
    "array of few bytes": (array((2,), data=b"\0" * 15), "beyond its storage in the pickle, which has 15 bytes"),
    "array of huge size": (array((BUG, BUG)), "has sizes that no tensor has"),
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
    "key without a name": (b"}" + b")" + tensor() + b"s", "no text or number as its key: tuple"),
    "key that is a list": (b"}" + b"]" + tensor() + b"s", "no text or number as its key: list"),
    "name twice": (
        b"}" + text("a.b") + tensor() + b"s" + text("a") + dictionary(b=tensor()) + b"s", "same name, 'a.b'"
    ),
    "number and text": (b"}" + integer(1) + tensor() + b"s" + text("1") + tensor() + b"s", "same name, '1'"),
    "name that is no text": (b"}" + text("\ud800") + tensor() + b"s", r"a name that is no text: '\\ud800'"),
    "long name": (b"}" + text("a" * 5000) + tensor() + b"s", "nested too deep, or a name of more than"),
    "list in itself": (b"]q\x00h\x00a", "0 is inside of itself"),
    "dict in itself": (b"}q\x00" + text("a") + b"](h\x00es", r"a\.0 is inside of itself"),
    "tuple in itself": (b"]q\x00h\x00\x85a", r"0\.0 is inside of itself"),
    "deep": (b"]" * 100_000 + tensor() + b"a" * 100_000, "nested too deep"),
    "deep tuples": (tensor() + b"\x85" * 100_000, "nested too deep"),
    "deep dicts": (b"}K\x01" * 50_000 + tensor() + b"s" * 50_000, "nested too deep"),
    "doubling": (b"]" + tensor() + b"a" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(60)),
        "come to more than 1,000|the list of its tensors takes"),
    "doubling of nothing": (b"]" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(60)), "come to more than 1,000"),
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
    monkeypatch.setattr(machine, "_MOST_STEPS", 1000)
    refused(write(tmp_path, zipped(body)), "more than 1,000 operations")


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
    *(name(*known) for known in names._NAMES),
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
    monkeypatch.setattr(machine.Machine, "top", lambda self: self._stack[-1])
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
