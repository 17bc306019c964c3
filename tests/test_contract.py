"""What users may rely on: the public names, and docstrings that say what they have to."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import nplstm

PUBLIC = """
    Activation AttentionReadout CellSpec ContextConcatenation HiddenTransform Projection TransformGradients
    LSTM SGD Adam AdamW ArgumentError BackendError BackendUnavailableError DTypeError
    DeviceError DivergenceError Embedding FileFormatError GradcheckError JoinedParameters LSTMCell Linear
    MissingDependencyError NplstmError PackedSequence Parameters ShapeError StateDictError
    clip_grad_norm clip_grad_value cross_entropy gradcheck huber_loss load mse_loss pack_padded_sequence
    pack_sequence pad_packed_sequence pad_sequence read_tensors save
    EngineChoice Stream get_num_threads set_num_threads use_engines use_precision
""".split()


def test_the_public_names_are_these():
    assert sorted(nplstm.__all__) == sorted(PUBLIC)
    assert all(hasattr(nplstm, name) for name in PUBLIC)


def test_signatures_are_torchs():
    names = list(inspect.signature(nplstm.LSTM).parameters)
    torchs = "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size".split()
    ours = "cell recurrent_size hidden_transform stacking merge residual reverse output_order".split()
    assert names == [*torchs, *ours, "backend", "dtype", "rng"]
    cell = list(inspect.signature(nplstm.LSTMCell).parameters)
    assert cell == ["input_size", "hidden_size", "bias", "cell", "recurrent_size", "backend", "dtype", "rng"]
    said = "lengths mask masked_output reset reset_to context".split()
    assert list(inspect.signature(nplstm.LSTM.__call__).parameters) == ["self", "input", "hx", *said]


def test_what_is_printed_is_what_the_signature_says():
    from nplstm.layers.options import DEFAULTS

    signature = inspect.signature(nplstm.LSTM).parameters
    special = {"input_size", "hidden_size", "recurrent_size", "backend", "dtype", "rng"}
    assert set(signature) == special | set(DEFAULTS)
    defaults = {name: signature[name].default for name in DEFAULTS}
    assert defaults == DEFAULTS | {"cell": None}  # None stands for the standard cell


def modules():
    found = pkgutil.walk_packages(nplstm.__path__, "nplstm.")
    return [importlib.import_module(m.name) for m in found if not m.name.endswith("._kernels")]


def test_every_module_has_a_docstring_and_stays_short():
    for module in modules():
        assert module.__doc__, module.__name__
        assert lines_of_code(inspect.getsource(module)) <= 260, module.__name__


def lines_of_code(source):
    """Lines that are neither blank, nor comments, nor part of a docstring."""
    documents = set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            documents |= {*range(node.lineno, node.end_lineno + 1)}
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        number not in documents and line.strip() != "" and not line.strip().startswith("#")
        for number, line in lines
    )


def test_every_public_thing_has_an_example():
    for name in PUBLIC:
        thing = getattr(nplstm, name)
        if not (inspect.isclass(thing) and issubclass(thing, nplstm.NplstmError)):
            assert ">>>" in thing.__doc__, name


def test_the_changelog_knows_the_version():
    changelog = (Path(nplstm.__file__).parent.parent / "CHANGELOG.md").read_text()
    assert f"## {nplstm.__version__}" in changelog


def test_the_package_says_that_it_is_typed():
    assert (Path(nplstm.__file__).parent / "py.typed").exists()


def test_what_is_imported_late_is_listed_and_not_kept(monkeypatch):
    assert set(nplstm.__all__) <= set(dir(nplstm))
    assert {"io", "onnx"} <= set(dir(nplstm))
    monkeypatch.setattr("nplstm.io.load", "another")
    assert nplstm.load == "another"
    monkeypatch.undo()
    assert nplstm.load is nplstm.io.load
    with pytest.raises(AttributeError, match="module 'nplstm' has no attribute 'lode'"):
        nplstm.lode  # noqa: B018
