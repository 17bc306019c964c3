"""The allow-list of global names that a pickle may use, and the harmless object that stands for each.

``tensor_globals`` has the names of tensors and arrays. Here are the names of containers,
which become plain ones, and of other objects that checkpoints often hold: such an object becomes a
``Placeholder``, and is left out of the tensors.
"""

from collections.abc import Callable
from typing import TypeGuard, cast

from nplstm.io.pt.tensor_globals import TENSOR_GLOBALS
from nplstm.io.pt.unpickler import (
    INVALID_ARGUMENTS,
    AllowedFunction,
    Buildable,
    PickledDict,
    Placeholder,
    Value,
    latin1,
)

__all__ = ["ScriptObject", "find_global", "find_script_global"]

_Arguments = tuple[Value, ...]

_SHOWN = 100
"""How many characters of the name of a TorchScript class are kept; it is only for messages."""


class PickledOrderedDict(PickledDict, Buildable):
    """An OrderedDict."""

    def build(self, state: Value) -> bool:
        """Accept the attributes of a state dict, such as the modules' versions, and drop them."""
        return isinstance(state, PickledDict)


class AttributeObject(PickledDict, Buildable):
    """An object that only has attributes."""

    def build(self, state: Value) -> bool:
        """Take the attributes without a copy: copies would double each time that an object takes its own."""
        if isinstance(state, PickledDict):
            self.pairs = state.pairs
        return isinstance(state, PickledDict)


class ScriptObject(Buildable):
    """An object of a class that a TorchScript archive defines: its attributes, and none of its code."""

    def __init__(self) -> None:
        self.attributes = PickledDict()

    def build(self, state: Value) -> bool:
        """Take the attributes; a class may have another kind of state, which has no parameters by name."""
        if isinstance(state, PickledDict):
            self.attributes = state
        return True


def find_global(module: str, name: str) -> Value:
    """Return what stands for a global in a file that torch.save wrote; None if it is not allowed."""
    return _ALLOWED.get((module, name))


def find_script_global(module: str, name: str) -> Value:
    """Return what stands for a global in a TorchScript archive, which defines classes of its own."""
    if module == "__torch__" or module.startswith("__torch__."):
        shown = ascii(f"{module}.{name}"[:_SHOWN])[1:-1]
        return AllowedFunction(f"{shown:.{_SHOWN}}", lambda _: ScriptObject())
    return find_global(module, name)


def _new_dict(container: type[PickledDict]) -> Callable[[_Arguments], Value]:
    def run(arguments: _Arguments) -> Value:
        match arguments:
            case ():
                return container()
            case (PickledDict() as items,):
                return container(list(items.pairs))
            case (pairs,) if _are_pairs(pairs):  # as Python 2 writes it
                return container([(key, value) for key, value in pairs])
            case _:
                return INVALID_ARGUMENTS

    return run


def _are_pairs(value: Value) -> TypeGuard[list[tuple[Value, Value]]]:
    return isinstance(value, list) and all(
        isinstance(pair, (list, tuple)) and len(cast("list[Value]", pair)) == 2
        for pair in cast("list[Value]", value)
    )


def _new_default_dict(arguments: _Arguments) -> Value:
    """Return a dict; the factory of its missing values is only a placeholder."""
    match arguments:
        case () | (None | Placeholder() | AllowedFunction(),):
            return PickledDict()
        case _:
            return INVALID_ARGUMENTS


def _new_list(arguments: _Arguments) -> Value:
    match arguments:
        case ():
            return []
        case (values,) if isinstance(values, (list, tuple)):
            return list(cast("list[Value]", values))
        case _:
            return INVALID_ARGUMENTS


def _new_deque(arguments: _Arguments) -> Value:
    """Return an empty list, to which the deque's entries are appended."""
    match arguments:
        case () | ((),) | ((), None | int()):
            return []
        case _:
            return INVALID_ARGUMENTS


def _new_bytes(arguments: _Arguments) -> Value:
    match arguments:
        case ():
            return b""
        case (bytes() as data,):
            return data
        case _:
            return _encoded(arguments)


def _encoded(arguments: _Arguments) -> Value:
    """Return bytes from text: protocol 2 has no opcode for bytes."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return latin1(text)
        case _:
            return INVALID_ARGUMENTS


def _named(name: str) -> AllowedFunction:
    """Return a function that ignores its arguments and makes a placeholder, for objects that are not tensors."""
    return AllowedFunction(name, lambda _: Placeholder(name))


def _build_table() -> dict[tuple[str, str], Value]:
    names: dict[tuple[str, str], Value] = {
        ("collections", "OrderedDict"): AllowedFunction("collections.OrderedDict", _new_dict(PickledOrderedDict)),
        ("collections", "Counter"): AllowedFunction("collections.Counter", _new_dict(PickledDict)),
        ("collections", "defaultdict"): AllowedFunction("collections.defaultdict", _new_default_dict),
        ("_codecs", "encode"): AllowedFunction("_codecs.encode", _encoded),
        ("collections", "deque"): AllowedFunction("collections.deque", _new_deque),
        ("decimal", "Decimal"): _named("decimal.Decimal"),
        ("fractions", "Fraction"): _named("fractions.Fraction"),
    }
    for module, name in (("argparse", "Namespace"), ("types", "SimpleNamespace")):
        names[module, name] = AllowedFunction(
            f"{module}.{name}", lambda a: INVALID_ARGUMENTS if a else AttributeObject()
        )
    for module in ("builtins", "__builtin__"):
        for name in ("dict", "list", "tuple", "int", "float", "bool", "str"):
            names[module, name] = Placeholder(name)
        names[module, "set"] = names[module, "frozenset"] = AllowedFunction("set", _new_list)
        names[module, "bytearray"] = AllowedFunction("bytearray", _new_bytes)
        for name in ("complex", "range", "xrange", "slice"):
            names[module, name] = _named(name)
    for name in ("date", "datetime", "time", "timedelta", "timezone"):
        names["datetime", name] = _named(f"datetime.{name}")
    for module in ("pathlib", "pathlib._local"):
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
            names[module, name] = _named(f"pathlib.{name}")
    return names


_ALLOWED = _build_table() | TENSOR_GLOBALS
