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
"""How much is kept of the name of a class that the file brings along; it is for messages alone."""


class PickledOrderedDict(PickledDict, Buildable):
    """An OrderedDict."""

    def build(self, state: Value) -> bool:
        """Take the attributes of a state dict, such as the modules' versions, and let them go."""
        return isinstance(state, PickledDict)


class AttributeObject(PickledDict, Buildable):
    """An object that is no more than its attributes."""

    def build(self, state: Value) -> bool:
        """Take the attributes, as they are: a copy would double with each time that it takes its own."""
        if isinstance(state, PickledDict):
            self.pairs = state.pairs
        return isinstance(state, PickledDict)


class ScriptObject(Buildable):
    """An object of a class that a TorchScript archive brings along: its attributes, and none of its code."""

    def __init__(self) -> None:
        self.attributes = PickledDict()

    def build(self, state: Value) -> bool:
        """Take the attributes; a class may have a state of its own making, which holds no parameters by name."""
        if isinstance(state, PickledDict):
            self.attributes = state
        return True


def find_global(module: str, name: str) -> Value:
    """Return what a name stands for in a file that torch.save wrote; None if it stands for nothing."""
    return _ALLOWED.get((module, name))


def find_script_global(module: str, name: str) -> Value:
    """Return what a name stands for in a TorchScript archive, which has classes of its own."""
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
            case (pairs,) if _are_pairs(pairs):  # as Python 2 has it
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
    """Return a dict; what would make its missing values is a name alone."""
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
    """Return a list, empty as a deque is at first; its entries are appended."""
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
    """Return bytes from text: as protocol 2, which has no bytes, writes them."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return latin1(text)
        case _:
            return INVALID_ARGUMENTS


def _named(name: str) -> AllowedFunction:
    """Return a function that makes no more of its arguments than a name: what it should make is no tensor."""
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
