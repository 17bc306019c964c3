"""Options of a Keras LSTM layer, translated to those of ``nplstm.LSTM``; ``docs/keras.md`` has the table."""

from collections.abc import Iterator
from typing import Any, cast

from nplstm.core.cell_spec import CellSpec
from nplstm.errors import NplstmError
from nplstm.io.keras.model_config import (
    ObjectConfig,
    cells_of,
    class_of,
    config_of,
    directions_of,
    is_fused,
    stacked,
)
from nplstm.io.model_file import describe

__all__ = ["UnsupportedOptionError", "layer_cautions", "layer_notes", "layer_options"]

_MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product", None: "none"}

_ACTIVATIONS: dict[str | None, Any] = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "elu": "Elu",
    "celu": "Elu",  # with alpha = 1, which by name alone it has
    "softplus": "Softplus",
    "softsign": "Softsign",
    "leaky_relu": ("LeakyRelu", 0.2),
    "linear": "Affine",
    None: "Affine",
}
_HARD_SIGMOID = {"1": 0.2, "2": 0.2, "3": 1 / 6}
"""The slope by the major version of Keras."""

_STANDARD = ["Sigmoid", "Tanh", "Tanh"]
_INITIALIZERS = {  # ours, Keras's option, and its default
    "init_ih": ("kernel_initializer", "GlorotUniform"),
    "init_hh": ("recurrent_initializer", "Orthogonal"),
    "init_bias": ("bias_initializer", "Zeros"),
}
_STARTS = {"GlorotUniform": "xavier_uniform", "Orthogonal": "orthogonal", "Zeros": "zeros"}


_MODULES = {"keras", "tf_keras", "tensorflow"}
_HALF = {"float16", "bfloat16", "mixed_float16", "mixed_bfloat16"}


class UnsupportedOptionError(Exception):
    """A Keras layer has an option that is not supported; the message names it."""


def layer_options(entry: ObjectConfig, version: str) -> dict[str, Any]:
    """Return the options of a layer, except ``input_size``, which its weights show.

    Parameters
    ----------
    entry : dict
        The layer in the model's configuration: an LSTM, an RNN of LSTM cells, or a Bidirectional of one.
    version : str
        Of the Keras that wrote it; "" if it is not known.

    Raises
    ------
    UnsupportedOptionError
        If an option has a value that is not supported.
    """
    _check_classes(entry)
    cells = [cell.config for cell in cells_of(entry)]
    shared, *others = [_cell_options(cell, version) for cell in cells]
    if any(other != shared for other in others):
        raise UnsupportedOptionError("its cells, or its backward_layer, have options that differ")
    turned = _two_directions(entry) if _is_bidirectional(entry) else _one_direction(entry)
    options: dict[str, Any] = (
        {"kind": "LSTM"} | turned | _sizes(cells, 2 if _is_bidirectional(entry) else 1) | shared
    )
    return options | {"cell": options["cell"] | _initialisers(cells, bias=options["bias"])}


def layer_notes(entry: ObjectConfig) -> tuple[str, ...]:
    """Return what a layer's call does in Keras and has to be passed, or taken, in a call here."""
    config = config_of(directions_of(entry)[0] if _is_bidirectional(entry) else entry)
    notes: list[str] = []
    if config.get("return_sequences") is not True:
        notes.append("return_sequences=False: the model uses the last h alone, h_n of the last layer")
    if config.get("zero_output_for_mask") is True and not _is_bidirectional(entry):
        notes.append('zero_output_for_mask=True: with a mask, call it with masked_output="zero"')
    return tuple(notes)


def layer_cautions(entry: ObjectConfig) -> tuple[str, ...]:
    """Return warnings about options with which a call in Keras gives other numbers than here."""
    configs = [config_of(part) for part in _parts(entry)]
    cautions: list[str] = []
    if any(config.get("stateful") is True for config in configs):
        cautions.append("stateful=True: the model goes on from the state of the call before; give it as hx")
    half = sorted({_policy(config) for config in configs} & _HALF)
    return (*cautions, *(f"dtype={name!r}: the model computes in half precision" for name in half))


def _policy(config: ObjectConfig) -> str:
    """Return the name of a layer's element type or dtype policy; "" if there is none."""
    dtype = config.get("dtype")
    name = config_of(cast("ObjectConfig", dtype)).get("name") if isinstance(dtype, dict) else dtype
    return name if isinstance(name, str) else ""


def _is_bidirectional(entry: ObjectConfig) -> bool:
    return entry.get("class_name") == "Bidirectional"


def _check_classes(entry: ObjectConfig) -> None:
    """Raise if a class is the user's own under a name of Keras's, or has cells that are not LSTM cells."""
    if is_fused(entry):
        raise UnsupportedOptionError(
            "CuDNNLSTM has another layout; Keras 2 loads its weights into an LSTM: save that"
        )
    for part in _parts(entry):
        if _is_custom(part):
            what = "its class" if part is entry else f"the class of its {_brief(part.get('class_name'))}"
            raise UnsupportedOptionError(f"{what} is the user's own, {_brief(_qualified(part))}")
        for one in stacked(part) if class_of(part) == "StackedRNNCells" else []:
            if one.get("class_name") != "LSTMCell":
                raise UnsupportedOptionError(f"one of its cells is a {_brief(one.get('class_name'))}")


def _parts(entry: ObjectConfig) -> Iterator[ObjectConfig]:
    """Yield a layer, its directions, and the cells of each."""
    yield entry
    for part in directions_of(entry) if _is_bidirectional(entry) else (entry,):
        if part is not entry:
            yield part
        cell = config_of(part).get("cell")
        if isinstance(cell, dict):
            yield cast("ObjectConfig", cell)
            yield from stacked(cast("ObjectConfig", cell))


def _is_custom(part: ObjectConfig) -> bool:
    """Tell whether a class is the user's own, though it may have the name of one of Keras's.

    Keras's classes have no registered name. The user's have one, and their module, None for the main program.
    """
    module = part.get("module", "keras")
    known = isinstance(module, str) and module.partition(".")[0] in _MODULES
    return isinstance(part.get("registered_name"), str) or not known


def _qualified(part: ObjectConfig) -> Any:
    return part.get("registered_name") or part.get("module") or part.get("class_name")


def _one_direction(entry: ObjectConfig) -> dict[str, Any]:
    config = config_of(entry)
    turned = {"reverse": True, "output_order": "processing"} if _flag(config, "go_backwards") else {}
    return turned | {"batch_first": not _flag(config, "time_major")}


def _two_directions(entry: ObjectConfig) -> dict[str, Any]:
    forward, backward = (config_of(one) for one in directions_of(entry))
    if _flag(forward, "go_backwards") or not _flag(backward, "go_backwards"):
        raise UnsupportedOptionError("go_backwards: its first layer has to go forwards, and its second backwards")
    merge = config_of(entry).get("merge_mode", "concat")
    if not isinstance(merge, str | None) or merge not in _MERGES:
        raise UnsupportedOptionError(f"merge_mode={_brief(merge)} is not known")
    batch_first = not _flag(forward, "time_major")
    return {"bidirectional": True, "merge": _MERGES[merge], "batch_first": batch_first}


def _sizes(cells: list[ObjectConfig], directions: int) -> dict[str, Any]:
    """Return the sizes of a stack, whose cells are listed once for each direction."""
    units = [_units(cell) for cell in cells]
    sizes = units[: len(units) // directions]
    if sizes * directions != units:
        raise UnsupportedOptionError(f"units: those of its directions differ, {units}")
    options: dict[str, Any] = {"hidden_size": sizes[0] if len(set(sizes)) == 1 else tuple(sizes)}
    if len(sizes) > 1:
        # in Keras each direction is a stack of its own
        options |= {"num_layers": len(sizes)} | ({"stacking": "independent"} if directions == 2 else {})
    return options


def _units(config: ObjectConfig) -> int:
    units = config.get("units")
    if not isinstance(units, int) or isinstance(units, bool) or units < 1:
        raise UnsupportedOptionError(f"units: expected a number of cells, got {_brief(units)}")
    return units


def _cell_options(config: ObjectConfig, version: str) -> dict[str, Any]:
    """Return the options that an LSTM and an LSTMCell both have, which all cells of a layer here share."""
    cell: dict[str, Any] = {}
    inner = _activation("activation", config.get("activation", "tanh"), version)
    gates = _activation("recurrent_activation", config.get("recurrent_activation", "sigmoid"), version)
    if [gates, inner, inner] != _STANDARD:
        cell["activations"] = [gates, inner, inner]
    for ours, theirs in (("input_dropout", "dropout"), ("recurrent_dropout", "recurrent_dropout")):
        if config.get(theirs):
            cell[ours] = config[theirs]
    try:
        CellSpec.from_dict(cell)
    except (NplstmError, TypeError, OverflowError, RecursionError) as error:
        raise UnsupportedOptionError(f"its options are not valid: {describe(error)}") from error
    return {"bias": _flag(config, "use_bias", default=True), "cell": cell}


def _initialisers(cells: list[ObjectConfig], *, bias: bool) -> dict[str, Any]:
    """Return the initialisers that exist here too; loaded parameters do not depend on them."""
    config = cells[0]
    found: dict[str, Any] = {}
    for ours, (theirs, default) in _INITIALIZERS.items():
        initializer: Any = config.get(theirs, {"class_name": default})
        name: Any = cast("ObjectConfig", initializer).get("class_name") if isinstance(initializer, dict) else None
        usual = isinstance(name, str) and config_of(cast("ObjectConfig", initializer)).get("gain") in (None, 1.0)
        if usual and name in _STARTS and (name == "Zeros") == (ours == "init_bias"):
            found[ours] = _STARTS[name]
    if bias and config.get("unit_forget_bias", True) is True:
        found["forget_bias"] = 1.0
    return found


def _activation(option: str, value: Any, version: str) -> Any:
    """Return an activation as ``CellSpec`` takes it: a name, or a name with its constants."""
    if isinstance(value, dict):
        return _activation_layer(option, cast("ObjectConfig", value))
    if value == "hard_sigmoid":
        slope = _HARD_SIGMOID.get(version.partition(".")[0])
        if slope is None:
            raise UnsupportedOptionError(
                f"{option}: hard_sigmoid has the slope 0.2 in Keras 2 and 1/6 in 3: which one wrote it?"
            )
        return ("HardSigmoid", slope, 0.5)
    if not isinstance(value, str | None) or value not in _ACTIVATIONS:
        raise UnsupportedOptionError(f"{option}: {_brief(value)} is not supported")
    return _ACTIVATIONS[value]


def _activation_layer(option: str, entry: ObjectConfig) -> Any:
    """Return the activation that an activation layer or a serialized object stands for."""
    name, config = entry.get("class_name"), config_of(entry)
    slope = config.get("negative_slope", config.get("alpha"))
    if name == "LeakyReLU":
        return ("LeakyRelu", 0.3 if slope is None else slope)
    if name == "ELU":
        return ("Elu", 1.0 if slope is None else slope)
    if name == "ReLU" and config.get("max_value") is None and not (slope and config.get("threshold")):
        if config.get("threshold"):
            return ("ThresholdedRelu", config["threshold"])
        return ("LeakyRelu", slope) if slope else "Relu"
    what = entry.get("config") if name == "function" else entry.get("registered_name") or name
    raise UnsupportedOptionError(f"{option}: {_brief(what)} is not supported")


def _flag(config: ObjectConfig, name: str, *, default: bool = False) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise UnsupportedOptionError(f"{name}: expected true or false, got {_brief(value)}")
    return value


def _brief(value: Any) -> str:
    """Return a value for a message; for a nested one, its type."""
    return repr(value)[:80] if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
