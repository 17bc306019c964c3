"""``nplstm inspect``, ``convert``, ``run``, ``verify``, as a user runs them."""

import json
import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest
from cases import CELLS

import nplstm
from nplstm.commands.cli import main
from nplstm.commands.model_files import sequences
from nplstm.io import open_file, read_tensors, write_tensors

I, H = 3, 5


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name="m.npz", **options):
    options = dict(rng=0) | options
    layer = nplstm.LSTM(I, H, **options)
    nplstm.save(layer, name)
    return layer


def draw(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_inspect_tells_what_is_there(folder, capsys):
    parts = {"encoder.": nplstm.LSTM(I, H, 2, bidirectional=True), "cell.": nplstm.LSTMCell(2, 7, bias=False)}
    arrays = {prefix + name: a for prefix, layer in parts.items() for name, a in layer.parameters.items()}
    write_tensors("m.safetensors", arrays | {"steps": np.array(3)}, {"note": "\x1b[31mred"})
    assert run("inspect", "m.safetensors") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert "\x1b" not in shown
    assert lines[0].startswith("m.safetensors: safetensors, ")
    assert (
        f"  encoder.: LSTM(3, 5, num_layers=2, bidirectional=True), float32, {parts['encoder.'].num_parameters:,} "
        in shown
    )
    assert "  cell.: LSTMCell(2, 7, bias=False), float32, 252 parameters" in lines
    assert any(line.split() == ["encoder.weight_hh_l1_reverse", "float32", "(20,", "5)"] for line in lines)
    assert any(line.split() == ["steps", "int64", "()"] for line in lines)
    total = sum(array.size for array in arrays.values())
    assert f"total: {len(arrays) + 1} tensors, {total + 1:,} elements" in shown
    assert f"of them {total:,} parameters of LSTMs" in shown
    assert "note: \\x1b[31mred" in shown  # nothing that would reach a terminal as a command


def test_inspect_as_json(folder, capsys):
    layer = make(cell=nplstm.CellSpec(peephole="full", clip=3))
    assert run("inspect", "m.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "npz"
    assert found["size"] == (folder / "m.npz").stat().st_size
    (record,) = found["layers"]
    assert record["options"]["cell"]["peephole"] == "full"
    assert record["parameters"] == found["total"]["parameters_of_lstms"] == layer.num_parameters
    assert found["tensors"]["weight_ih_l0"] == {"shape": [4 * H, I], "dtype": "float32"}
    assert found["total"]["bytes"] == 4 * layer.num_parameters


def test_inspect_of_a_file_without_an_lstm(folder, capsys):
    write_tensors("x.npz", {"a": np.zeros(2)})
    assert run("inspect", "x.npz") == 0
    assert "no LSTM" in capsys.readouterr().out
    assert run("inspect", "none") == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["out.safetensors", "out.npz"])
def test_convert_keeps_the_layer(folder, target, capsys):
    layer = make(num_layers=2, dropout=0.3, cell=nplstm.CellSpec(zoneout_h=0.1))
    assert run("convert", "m.npz", target) == 0
    shown = capsys.readouterr().out
    assert repr(layer) in shown
    assert f"{(folder / target).stat().st_size:,} bytes in {target}" in shown
    assert repr(nplstm.load(target)) == repr(layer)
    assert run("verify", "m.npz", target) == 0
    assert "the outputs agree" in capsys.readouterr().out


def test_verify_takes_the_only_layer_whatever_its_name(folder, capsys):
    one, two = nplstm.LSTM(I, H, rng=0), nplstm.LSTM(I, 2, rng=1)
    arrays = {
        f"{p}.{name}": a for p, layer in {"a": one, "b": two}.items() for name, a in layer.parameters.items()
    }
    write_tensors("two.npz", arrays)
    assert run("convert", "two.npz", "one.npz", "--layer", "a") == 0
    assert run("verify", "two.npz", "one.npz", "--layer", "a") == 0
    assert run("verify", "two.npz", "two.npz", "--layer", "a") == 0
    assert run("verify", "two.npz", "two.npz", "--layer", "a", "--second-layer", "b") == 2
    assert "hidden_size: the first file's layer has 5" in capsys.readouterr().err


def test_convert_with_choices(folder, capsys):
    one, two = nplstm.LSTM(I, H, rng=0), nplstm.LSTM(I, 2, rng=1)
    parts = {"a.": one, "b.": two}
    arrays = {prefix + name: a for prefix, layer in parts.items() for name, a in layer.parameters.items()}
    write_tensors("two.npz", arrays, {"note": "kept"})
    assert run("convert", "two.npz", "out") == 2
    assert "2 LSTMs are in this file; name one of them" in capsys.readouterr().err
    assert not (folder / "out").exists()
    assert (
        run("convert", "two.npz", "out", "--layer", "b", "--dtype", "float64", "--batch-first", "--format", "npz")
        == 0
    )
    assert repr(nplstm.load("out")) == "LSTM(3, 2, batch_first=True, dtype='float64')"
    assert run("convert", "two.npz", "all.safetensors", "--tensors") == 0
    with open_file("all.safetensors") as file:
        assert file.metadata == {"note": "kept"}
    assert all(np.array_equal(read_tensors("all.safetensors")[name], array) for name, array in arrays.items())
    assert run("convert", "two.npz", "x.npz", "--tensors", "--layer", "a") == 2
    assert "--layer: applies to one LSTM, but --tensors" in capsys.readouterr().err
    assert run("convert", "two.npz", "x.h5", "--layer", "a") == 2
    assert "ends in .h5, which is Keras's: such files are read, not written" in capsys.readouterr().err
    assert run("convert", "two.npz", "x.onnx", "--tensors") == 2
    assert "ONNX files hold layers; tensors go to safetensors, npz, pt" in capsys.readouterr().err


def test_verify_sees_a_difference(folder, capsys):
    layer = make("a.npz", dtype="float64")
    spoilt = dict(layer.state_dict())
    spoilt["weight_hh_l0"] = spoilt["weight_hh_l0"].copy()
    spoilt["weight_hh_l0"][3, 2] += 1e-3
    write_tensors("b.npz", spoilt)
    assert run("verify", "a.npz", "b.npz", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["weight_hh_l0"] == pytest.approx(1e-3)
    assert [name for name, difference in found["parameters"].items() if difference] == ["weight_hh_l0"]
    assert 1e-8 < found["outputs"]["output"] < 1e-3
    assert not found["same"]
    assert run("verify", "a.npz", "b.npz", "--tolerance", "0.01") == 0
    assert run("verify", "a.npz", "b.npz") == 1
    assert "THE OUTPUTS DIFFER (to 1e-12, on random input)" in capsys.readouterr().out


def test_verify_of_unlike_layers(folder, capsys):
    make("a.npz")
    make("b.npz", num_layers=2)
    assert run("verify", "a.npz", "b.npz") == 2
    assert "num_layers: the first file's layer has 1, the second's 2" in capsys.readouterr().err
    layer = make("c.npz", cell=nplstm.CellSpec(peephole="diagonal"), batch_first=True)
    assert run("verify", "a.npz", "c.npz", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["weight_ch_l0"] is None  # infinite, which JSON does not have
    assert found["layers"][1] == repr(layer)


def test_verify_takes_layout_dtype_and_biases_into_account(folder, capsys):
    layer = make("a.npz")
    arrays = {name: a.astype(np.float64) for name, a in layer.parameters.items()}
    arrays["bias_ih_l0"], arrays["bias_hh_l0"] = arrays["bias_ih_l0"] + arrays["bias_hh_l0"], np.zeros(4 * H)
    write_tensors("b.npz", arrays)
    nplstm.save(nplstm.load("b.npz", batch_first=True), "c.npz")
    assert run("verify", "a.npz", "c.npz", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dtypes"] == ["float32", "float64"]
    assert found["tolerance"] == 1e-6
    write_tensors("nan.npz", arrays | {"bias_ih_l0": np.full(4 * H, np.nan)})
    assert run("verify", "a.npz", "nan.npz", "--json") == 1
    assert run("verify", "nan.npz", "nan.npz") == 1  # what is no number agrees with nothing


RUNS = {
    "plain": {},
    "two layers": dict(num_layers=2, batch_first=True),
    "bidirectional": dict(num_layers=2, bidirectional=True),
    "bidirectional batch first": dict(bidirectional=True, batch_first=True, merge="sum"),
    "independent": dict(num_layers=2, bidirectional=True, stacking="independent", merge="mean"),
    "reverse": dict(reverse=True),
    "processing": dict(reverse=True, output_order="processing", batch_first=True),
    "sizes": dict(hidden_size=(5, 7), num_layers=2),
    "sizes bidirectional": dict(hidden_size=(5, 7), num_layers=2, bidirectional=True),
    "projection": dict(proj_size=2, dtype="float64"),
    "transform": dict(hidden_transform=nplstm.Projection(4)),
    "residual": dict(num_layers=3, residual=True),
}


def make_row(name):
    options = dict(RUNS[name])
    layer = nplstm.LSTM(I, options.pop("hidden_size", H), **options, rng=0)
    nplstm.save(layer, "m.npz")
    return layer


def flat(states):
    return [array for state in states for array in (state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("lengths", [None, [11, 0, 4, 7]])
@pytest.mark.parametrize("name", RUNS)
def test_run_is_a_call(folder, name, lengths, monkeypatch):
    monkeypatch.setattr(sequences, "_ROWS", 9)  # several pieces
    layer = make_row(name)
    x = draw(4, 11, I, dtype=layer.dtype) if layer.batch_first else draw(11, 4, I, dtype=layer.dtype)
    np.save("x.npy", x)
    said = [] if lengths is None else ["--lengths", ",".join(map(str, lengths))]
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", "--states", "s.npz", *said) == 0
    output, final = layer(x, lengths=lengths)
    tolerance = dict(rtol=0, atol=1e-6)  # sums over a batch of another size round otherwise
    np.testing.assert_allclose(np.load("y.npy"), output, **tolerance)
    assert np.load("y.npy").dtype == layer.dtype
    states = read_tensors("s.npz")
    for array, expected in zip(states.values(), flat(final), strict=True):
        np.testing.assert_allclose(array, expected, **tolerance)
    # and on from there
    assert run("run", "m.npz", "--input", "x.npy", "--output", "z.npy", "--initial", "s.npz", *said) == 0
    np.testing.assert_allclose(np.load("z.npy"), layer(x, final, lengths=lengths)[0], **tolerance)
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "s.npz", "x.npy", "y.npy", "z.npy"]


@pytest.mark.parametrize("cell", CELLS)
def test_run_of_every_cell(folder, cell):
    layer = make(cell=nplstm.CellSpec(**CELLS[cell]), dtype="float64")
    x = draw(7, 2, I, dtype="float64")
    np.save("x.npy", x)
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy") == 0
    assert np.array_equal(np.load("y.npy"), layer(x)[0])


def test_run_of_a_cell_and_of_one_sequence(folder):
    cell = nplstm.LSTMCell(I, H, rng=0)
    nplstm.save(cell, "cell.npz")
    x = draw(6, I)
    np.save("x.npy", x)
    assert run("run", "cell.npz", "--input", "x.npy", "--output", "y.npy") == 0
    state = None
    for step, x_t in enumerate(x):
        state = cell(x_t, state)
        np.testing.assert_allclose(np.load("y.npy")[step], state[0], rtol=0, atol=1e-6)
    make(batch_first=True)
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy") == 0
    assert np.load("y.npy").shape == (6, H)


def test_run_with_batch_first_and_lengths_in_a_file(folder):
    layer = make()
    x = draw(4, 9, I, dtype="float64")
    np.save("x.npy", x)
    np.save("n.npy", np.array([9, 1, 0, 3], dtype=np.uint8))
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", "--batch-first", "--lengths", "n.npy") == 0
    expected, _ = layer(x.swapaxes(0, 1).astype(np.float32), lengths=[9, 1, 0, 3])
    np.testing.assert_allclose(np.load("y.npy"), expected.swapaxes(0, 1), rtol=0, atol=1e-6)


WRONG = {
    "integers": (np.zeros((3, 2, I), int), [], "x.npy: expected floating-point numbers, got int64"),
    "width": (np.zeros((3, 2, 4)), [], r"x.npy: expected shape (T, B, I) or (T, I) with I=3, got (3, 2, 4)"),
    "axes": (np.zeros((1, 3, 2, I)), [], "x.npy: expected shape"),
    "no step": (np.zeros((0, 2, I)), [], "input: expected at least one step and one sequence, got (0, 2, 3)"),
    "no sequence": (np.zeros((2, 0, I)), [], "input: expected at least one step and one sequence, got (2, 0, 3)"),
    "lengths": (np.zeros((3, 2, I)), ["--lengths", "1,x"], "--lengths: expected integers with commas"),
    "many lengths": (
        np.zeros((3, 2, I)),
        ["--lengths", "1,2,3"],
        "--lengths: expected one for each of B=2 sequences, got 3",
    ),
    "long": (
        np.zeros((3, 2, I)),
        ["--lengths", "1,4"],
        "--lengths: expected integers in [0, T=3], got --lengths[1] = 4",
    ),
    "states": (np.zeros((3, 2, I)), ["--initial", "m.npz"], "--initial: m.npz has no h_n"),
    "objects": (np.array([{}], dtype=object), [], "x.npy: not an array (.npy)"),
    "backend": (np.zeros((3, 2, I)), ["--layer", "none"], "no LSTM by the name 'none'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_named_and_leaves_nothing(folder, name, capsys):
    make()
    array, arguments, message = WRONG[name]
    np.save("x.npy", array, allow_pickle=True)
    (folder / "y.npy").write_bytes(b"old")
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", *arguments) == 2
    assert message in capsys.readouterr().err
    assert (folder / "y.npy").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "x.npy", "y.npy"]


def test_what_one_file_cannot_hold_is_named(folder, capsys):
    make(bidirectional=True, merge="none")
    np.save("x.npy", draw(3, 2, I))
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy") == 2
    assert "merge='none': the model returns an output for each direction" in capsys.readouterr().err
    assert not (folder / "y.npy").exists()
    (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy") == 2
    assert "x.npy: not an array (.npy)" in capsys.readouterr().err


def test_ctrl_c_leaves_the_old_output(folder, monkeypatch, capsys):
    make()
    np.save("x.npy", draw(30, 2, I))
    (folder / "y.npy").write_bytes(b"old")
    monkeypatch.setattr(sequences, "_ROWS", 9)
    calls = []

    def interrupted(lstm, *arguments, **words):
        calls.append(lstm)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(lstm, *arguments, **words)

    call = nplstm.LSTM.__call__
    monkeypatch.setattr(nplstm.LSTM, "__call__", interrupted)
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy") == 130
    assert (folder / "y.npy").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "x.npy", "y.npy"]


def test_an_input_larger_than_memory(folder):
    """300 MB of input in a process that may take 200 MB for data."""
    layer = nplstm.LSTM(128, 16, rng=0)
    nplstm.save(layer, "m.npz")
    np.lib.format.open_memmap("x.npy", mode="w+", dtype=np.float32, shape=(150_000, 4, 128))
    code = """
import resource, sys
from nplstm.commands.cli import main
import nplstm
nplstm.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_DATA, (200 * 2**20,) * 2)
sys.exit(main(["run", "m.npz", "--input", "x.npy", "--output", "y.npy"]))
"""
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", NPLSTM_ENGINES="numpy")
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    output = np.load("y.npy", mmap_mode="r")
    expected, _ = layer(np.zeros((50, 4, 128), np.float32))
    np.testing.assert_allclose(output[:50], expected, rtol=0, atol=1e-6)
    assert output.shape == (150_000, 4, 16)
    assert np.isfinite(output[-1]).all()


def test_a_bar_is_shown_at_a_terminal(folder):
    make()
    np.save("x.npy", draw(3000, 2, I))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "nplstm", "run", "m.npz", "--input", "x.npy", "--output", "y.npy"]
    subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    assert "100%" in shown
    assert "6.00k/6.00k" in shown


STATES = {
    "many sequences": (
        dict(h_n=(1, 3, H), c_n=(1, 3, H)),
        "h_n: expected floating-point numbers of shape (L * D, B=2",
    ),
    "a vector": (dict(h_n=(H,), c_n=(H,)), "h_n: expected floating-point numbers of shape"),
    "a number": (dict(h_n=(), c_n=()), "h_n: expected floating-point numbers of shape"),
    "no h": (dict(c_n=(1, 2, H), s_n=(1, 2, H)), "has no h_n"),
    "no c": (dict(h_n=(1, 2, H)), "has no c_n"),
    "a gap": (dict(h_n_l0=(1, 2, H), h_n_l2=(1, 2, H), c_n=(1, 2, H)), "has h_n_l2 beside states"),
    "more": (dict(h_n=(1, 2, H), c_n=(1, 2, H), other=(1,)), "has other beside states"),
    "width": (dict(h_n=(1, 2, H + 1), c_n=(1, 2, H)), "h_0: expected shape"),
}


@pytest.mark.parametrize("name", STATES)
def test_initial_states_that_do_not_fit_are_named(folder, name, capsys):
    make()
    np.save("x.npy", draw(3, 2, I))
    shapes, message = STATES[name]
    write_tensors("s.npz", {key: draw(*shape) for key, shape in shapes.items()})
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", "--initial", "s.npz") == 2
    assert message in capsys.readouterr().err
    assert not (folder / "y.npy").exists()
    write_tensors("s.npz", {"h_n": np.zeros((1, 2, H), complex), "c_n": np.zeros((1, 2, H))})
    assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", "--initial", "s.npz") == 2
    assert "got complex128" in capsys.readouterr().err


def test_what_cannot_be_written_is_named_before_the_work(folder, capsys, monkeypatch):
    make()
    np.save("x.npy", draw(3, 2, I))
    monkeypatch.setattr(
        "nplstm.commands.model_files.run.run_in_chunks", lambda *_, **__: pytest.fail("the work has begun")
    )
    for states, message in (
        ("s.h5", "ends in .h5, which is Keras's"),
        ("s.onnx", "ONNX files hold layers"),
        ("y.npy", "--states: is the file of --output"),
    ):
        assert run("run", "m.npz", "--input", "x.npy", "--output", "y.npy", "--states", states) == 2
        assert message in capsys.readouterr().err
    assert run("run", "m.npz", "--input", "x.npy", "--output", "none/y.npy") == 2
    assert "none/y.npy" in capsys.readouterr().err
    os.mkfifo("pipe")
    assert run("run", "m.npz", "--input", "pipe", "--output", "y.npy") == 2
    assert "pipe: not an ordinary file" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "pipe", "x.npy"]


def test_a_full_disk_is_an_error(folder):
    """A limit on the size of files stands in for a full disk, which would end the process at the mapping."""
    make()
    np.save("x.npy", draw(3000, 2, I))
    (folder / "y.npy").write_bytes(b"old")
    code = """
import resource, signal, sys
from nplstm.commands.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(main(["run", "m.npz", "--input", "x.npy", "--output", "y.npy"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "File too large" in result.stderr
    assert (folder / "y.npy").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["m.npz", "x.npy", "y.npy"]


def test_verify_counts_relative_to_large_numbers_and_tells_of_parameters(folder, capsys):
    options = dict(cell=nplstm.CellSpec(activations=("Sigmoid", "Relu", "Relu")))
    layer = make("a.npz", **options)
    layer.load_state_dict(
        {name: array * np.float32(0 if "ih" not in name else 9) for name, array in layer.parameters.items()}
    )
    nplstm.save(layer, "a.npz")
    spoilt = layer.to(dtype="float64")
    spoilt.load_state_dict({name: array * (1 + 1e-7) for name, array in spoilt.parameters.items()})
    nplstm.save(spoilt.to(dtype="float32"), "b.npz")
    assert run("verify", "a.npz", "b.npz") == 0
    tiny = {name: array * np.float32(1e-7) for name, array in make("c.npz").parameters.items()}
    write_tensors("c.npz", tiny)
    write_tensors("d.npz", {name: array * np.float32(-5) for name, array in tiny.items()})
    capsys.readouterr()
    assert run("verify", "c.npz", "d.npz") == 0
    assert "the outputs agree (to 1e-06, on random input); the parameters do not" in capsys.readouterr().out
    for wrong in ("nan", "-1"):
        assert run("verify", "c.npz", "c.npz", f"--tolerance={wrong}") == 2
    assert run("verify", "c.npz", "c.npz", "--seed=-1") == 2


def test_the_bound_on_memory_can_be_raised(folder, capsys):
    make()
    np.save("x.npy", draw(3, 2, I))
    for command in (
        ["inspect", "m.npz"],
        ["convert", "m.npz", "n.npz"],
        ["convert", "m.npz", "n.npz", "--tensors"],
        ["run", "m.npz", "--input", "x.npy", "--output", "y.npy"],
        ["verify", "m.npz", "m.npz"],
    ):
        assert run(*command, "--max-bytes", "100") == 2
        assert "of max_bytes=100" in capsys.readouterr().err
        assert run(*command, "--max-bytes", "10000") == 0
    assert run("inspect", "m.npz", "--max-bytes", "0") == 2


def test_no_name_reaches_the_terminal_as_a_command(folder, capsys):
    """Every text that a hostile file may hold, in the listing and in errors."""
    odd = "\x1b]0;title\x07"
    layer = nplstm.LSTM(2, 3, rng=0)
    np.savez("m.npz", **{f"{odd}{k}.{name}": array for k in "ab" for name, array in layer.parameters.items()})
    text = json.dumps({"kind": odd, odd: odd, "cell": {odd: 1}, "input_size": odd})
    write_tensors("n.npz", layer.parameters, {"nplstm": text, odd: odd})
    for command in (
        ["inspect", "m.npz"],
        ["inspect", "n.npz"],
        ["convert", "m.npz", "o.npz"],
        ["convert", "n.npz", "o.npz"],
    ):
        run(*command)
        shown = capsys.readouterr()
        assert "title" in shown.out + shown.err
        assert "\x1b" not in shown.out + shown.err
