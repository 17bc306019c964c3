"""All names that a file of tensors may use, and what stands for each here: nothing that acts.

``torch_names`` and ``numpy_names`` have those of tensors and arrays. Here are those of containers, which become
plain ones, and of what else checkpoints often hold, which becomes a ``Name`` and is left out of the tensors.
"""

from collections.abc import Callable
from typing import TypeGuard, cast

from nplstm.io.pt.numpy_names import NUMPY_NAMES
from nplstm.io.pt.torch_names import TORCH_NAMES
from nplstm.io.pt.values import UNFIT, Buildable, Function, Items, Name, Value, latin1

__all__ = ["Record", "find", "find_in_script"]

_Arguments = tuple[Value, ...]

_SHOWN = 100
"""How much is kept of the name of a class that the file brings along; it is for messages alone."""


class OrderedItems(Items, Buildable):
    """An OrderedDict."""

    def build(self, state: Value) -> bool:
        """Take the attributes of a state dict, such as the modules' versions, and let them go."""
        return isinstance(state, Items)


class Attributes(Items, Buildable):
    """An object that is no more than its attributes."""

    def build(self, state: Value) -> bool:
        """Take the attributes, as they are: a copy would double with each time that it takes its own."""
        if isinstance(state, Items):
            self.pairs = state.pairs
        return isinstance(state, Items)


class Record(Buildable):
    """An object of a class that a TorchScript archive brings along: its attributes, and none of its code."""

    def __init__(self) -> None:
        self.attributes = Items()

    def build(self, state: Value) -> bool:
        """Take the attributes; a class may have a state of its own making, which holds no parameters by name."""
        if isinstance(state, Items):
            self.attributes = state
        return True


def find(module: str, name: str) -> Value:
    """Return what a name stands for in a file that torch.save wrote; None if it stands for nothing."""
    return _NAMES.get((module, name))


def find_in_script(module: str, name: str) -> Value:
    """Return what a name stands for in a TorchScript archive, which has classes of its own."""
    if module == "__torch__" or module.startswith("__torch__."):
        shown = ascii(f"{module}.{name}"[:_SHOWN])[1:-1]
        return Function(f"{shown:.{_SHOWN}}", lambda _: Record())
    return find(module, name)


def _new_dict(kind: type[Items]) -> Callable[[_Arguments], Value]:
    def run(arguments: _Arguments) -> Value:
        match arguments:
            case ():
                return kind()
            case (Items() as items,):
                return kind(list(items.pairs))
            case (pairs,) if _are_pairs(pairs):  # as Python 2 has it
                return kind([(key, value) for key, value in pairs])
            case _:
                return UNFIT

    return run


def _are_pairs(value: Value) -> TypeGuard[list[tuple[Value, Value]]]:
    return isinstance(value, list) and all(
        isinstance(pair, (list, tuple)) and len(cast("list[Value]", pair)) == 2
        for pair in cast("list[Value]", value)
    )


def _new_default_dict(arguments: _Arguments) -> Value:
    """Return a dict; what would make its missing values is a name alone."""
    match arguments:
        case () | (None | Name() | Function(),):
            return Items()
        case _:
            return UNFIT


def _new_list(arguments: _Arguments) -> Value:
    match arguments:
        case ():
            return []
        case (values,) if isinstance(values, (list, tuple)):
            return list(cast("list[Value]", values))
        case _:
            return UNFIT


def _new_deque(arguments: _Arguments) -> Value:
    """Return a list, empty as a deque is at first; its entries are appended."""
    match arguments:
        case () | ((),) | ((), None | int()):
            return []
        case _:
            return UNFIT


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
            return UNFIT


def _named(name: str) -> Function:
    """Return a function that makes no more of its arguments than a name: what it should make is no tensor."""
    return Function(name, lambda _: Name(name))


def _names() -> dict[tuple[str, str], Value]:
    names: dict[tuple[str, str], Value] = {
        ("collections", "OrderedDict"): Function("collections.OrderedDict", _new_dict(OrderedItems)),
        ("collections", "Counter"): Function("collections.Counter", _new_dict(Items)),
        ("collections", "defaultdict"): Function("collections.defaultdict", _new_default_dict),
        ("_codecs", "encode"): Function("_codecs.encode", _encoded),
        ("collections", "deque"): Function("collections.deque", _new_deque),
        ("decimal", "Decimal"): _named("decimal.Decimal"),
        ("fractions", "Fraction"): _named("fractions.Fraction"),
    }
    for module, name in (("argparse", "Namespace"), ("types", "SimpleNamespace")):
        names[module, name] = Function(f"{module}.{name}", lambda a: UNFIT if a else Attributes())
    for module in ("builtins", "__builtin__"):
        for name in ("dict", "list", "tuple", "int", "float", "bool", "str"):
            names[module, name] = Name(name)
        names[module, "set"] = names[module, "frozenset"] = Function("set", _new_list)
        names[module, "bytearray"] = Function("bytearray", _new_bytes)
        for name in ("complex", "range", "xrange", "slice"):
            names[module, name] = _named(name)
    for name in ("date", "datetime", "time", "timedelta", "timezone"):
        names["datetime", name] = _named(f"datetime.{name}")
    for module in ("pathlib", "pathlib._local"):
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
            names[module, name] = _named(f"pathlib.{name}")
    return names


_NAMES = _names() | NUMPY_NAMES | TORCH_NAMES
