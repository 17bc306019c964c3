"""Restricted unpickler: it calls only functions from an allow-list, and refuses any other name.

A pickle is a program for a virtual machine with a stack and a memo. Python's own unpickler imports and calls
whatever the program names, so that reading a pickle can run any code. This one runs the same opcodes, which
``pickletools`` of the standard library parses, but it never imports a module and never gets an attribute. It makes
numbers, text, bytes, lists, tuples, ``PickledDict``, and what the functions of its allow-list return.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pickletools import genops
from sys import stdlib_module_names
from typing import Any, BinaryIO, Final, TypeAlias, cast

from nplstm.errors import NplstmError
from nplstm.io.model_file import Budget, describe

__all__ = [
    "INVALID_ARGUMENTS",
    "AllowedFunction",
    "Buildable",
    "PickleStream",
    "PickledDict",
    "Placeholder",
    "RefusedError",
    "Unpickler",
    "Value",
    "latin1",
    "type_name",
]

_MOST_STEPS = 10_000_000
"""Limit on opcodes and members of functions' arguments: more than files of tensors have; 15 seconds of work."""
_STEP = 128
"""About the most memory that one opcode takes, in bytes, besides that of its text."""
_LONGEST_LINE = 4096
_LONGEST_INTEGER = 1024
"""In bits. Printing an integer takes time quadratic in its length."""
_NEWEST_PROTOCOL = 5

Value: TypeAlias = Any
"""Any value that a pickle made: each use has to check its type first."""


class RefusedError(NplstmError):
    """Something in a file is refused; the reader adds the path to the message."""


# Data classes, not named tuples: a pickle's own tuples must never be mistaken for one of them.


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """Stands for a global or an object that no tensor needs; nothing can be done with it."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class AllowedFunction:
    """A global that a pickle may call, and the function that is called in its place."""

    name: str
    run: Callable[[tuple[Value, ...]], Value]
    """Takes the arguments as a tuple; returns INVALID_ARGUMENTS if they are not as expected."""


INVALID_ARGUMENTS: Final = Placeholder("unfit")


class PickledDict:
    """A dict as a list of its entries, in their order.

    Keys are not hashed: some have no hash, and integers can be chosen so that a dict of them takes hours.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Value, Value]] | None = None) -> None:
        self.pairs: list[tuple[Value, Value]] = [] if pairs is None else pairs

    def get(self, key: str) -> Value:
        """Return the value of a key that is text: the last one, as in a dict; None without such a key."""
        return next((value for name, value in reversed(self.pairs) if isinstance(name, str) and name == key), None)


class Buildable(ABC):
    """An object whose state the opcode BUILD sets."""

    @abstractmethod
    def build(self, state: Value) -> bool:
        """Set the state; return whether it is valid."""


def type_name(value: Value) -> str:
    """Return the type of a value, for messages. Its content is not shown: it may be of any length."""
    if isinstance(value, Placeholder | AllowedFunction):
        return value.name
    if isinstance(value, PickledDict):
        return "dict"
    return "None" if value is None else type(value).__name__


def latin1(text: str) -> Value:
    """Return the bytes that old pickles store as text; INVALID_ARGUMENTS if the text is not Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return INVALID_ARGUMENTS


class PickleStream:
    """The part of a file that holds pickles, as a stream for ``pickletools``.

    A declared length takes no more memory than there are bytes left, and the length of a line is limited.
    """

    def __init__(self, file: BinaryIO, stop: int, budget: Budget) -> None:
        self._file, self._offset, self._stop, self._budget = file, file.tell(), stop, budget

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, or as many as there are."""
        return self._counted(self._file.read, count)

    def readline(self) -> bytes:
        """Return the next bytes up to the end of the line, or up to the limit."""
        return self._counted(self._file.readline, _LONGEST_LINE)

    def tell(self) -> int:
        """Return the offset in the file."""
        return self._offset

    def _counted(self, read: Callable[[int], bytes], most: int) -> bytes:
        count = max(min(most, self._stop - self._offset), 0)
        self._budget.take(count, "a pickle")
        data = read(count)
        self._budget.give_back(count - len(data))
        self._offset += len(data)
        return data


class Unpickler:
    """Virtual machine that runs one pickle, with the functions of an allow-list only.

    Parameters
    ----------
    find : callable
        Takes module and name; returns what stands for them, or None if the name is not allowed.
    persistent : callable
        Takes the identifier of an object outside of the pickle (opcode BINPERSID); returns what stands for it.
    budget : Budget
    """

    def __init__(
        self,
        find_global: Callable[[str, str], Value],
        persistent: Callable[[Value], Value],
        budget: Budget,
    ) -> None:
        self._find, self._persistent, self._budget = find_global, persistent, budget
        self._stack: list[Value] = []
        self._below: list[list[Value]] = []  # the stack below each mark
        # keys are text, whose hashes Python salts: integers could be chosen so that a dict of them takes hours
        self._memo: dict[str, Value] = {}
        self._work = 0  # opcodes, and members of the arguments of functions
        self.steps = 0

    def run(self, stream: PickleStream) -> Value:
        """Run the pickle at the current offset of the stream, and return its result.

        Raises
        ------
        RefusedError
            If it is damaged, or uses an opcode or a global that is not allowed.
        """
        try:
            for operation, argument, _ in genops(cast("Any", stream)):
                self._step(operation.name, argument)
        except NplstmError:
            raise
        except (ValueError, MemoryError, Warning) as error:  # a warning about text, where warnings are errors
            raise RefusedError(f"not a whole pickle: {describe(error):.200}") from error
        result = self.pop()
        if self._stack or self._below:
            raise RefusedError("not a whole pickle: values are left on its stack")
        return result

    def _step(self, name: str, argument: Value) -> None:
        self.steps += 1
        self._count(1)
        if name not in _OPERATIONS:
            raise RefusedError(f"uses the operation {name}, which no file of tensors needs; refused")
        _OPERATIONS[name](self, argument)

    def _count(self, steps: int) -> None:
        self._work += steps
        if self._work > _MOST_STEPS:
            raise RefusedError(
                f"its pickle asks for more than {_MOST_STEPS:,} operations; no file of tensors needs so many"
            )
        self._budget.take(steps * _STEP, "what a pickle makes")

    def _charge(self, argument: Value) -> None:
        """Count what a function may walk through or copy: a few bytes can pass it the same list again and again.

        Bytes are passed on, never copied.
        """
        if isinstance(argument, str):
            self._budget.take(len(argument), "what a pickle makes")
        elif isinstance(argument, PickledDict):
            self._count(len(argument.pairs))
        elif isinstance(argument, (list, tuple)):
            self._count(len(cast("list[Value]", argument)))

    # The stack and its marks

    def push(self, value: Value) -> None:
        """Push a value on the stack."""
        self._stack.append(value)

    def push_integer(self, value: int) -> None:
        """Push an integer on the stack, unless it is too long."""
        if value.bit_length() > _LONGEST_INTEGER:
            raise RefusedError(f"has an integer of {value.bit_length():,} bits; refused")
        self.push(value)

    def top(self) -> Value:
        """Return the top of the stack, above the last mark."""
        if not self._stack:
            raise RefusedError("not a whole pickle: its stack is empty where a value is needed")
        return self._stack[-1]

    def pop(self) -> Value:
        """Pop the top of the stack."""
        value = self.top()
        del self._stack[-1]
        return value

    def last(self, count: int) -> tuple[Value, ...]:
        """Pop the last ``count`` values."""
        return tuple(reversed([self.pop() for _ in range(count)]))

    def mark(self) -> None:
        """Set a mark; values below it cannot be reached until the mark is popped."""
        self._below.append(self._stack)
        self._stack = []

    def to_mark(self) -> list[Value]:
        """Pop all values above the last mark, and the mark."""
        if not self._below:
            raise RefusedError("not a whole pickle: a mark is missing")
        values, self._stack = self._stack, self._below.pop()
        return values

    def discard(self) -> None:
        """Discard the last value, or the mark if there is no value above it."""
        if self._stack:
            self.pop()
        else:
            self.to_mark()

    # Containers

    def extend(self, values: list[Value]) -> None:
        """Extend the list at the top of the stack; sets are lists here."""
        container = self.top()
        if not isinstance(container, list):
            raise RefusedError(f"adds to {type_name(container)} as to a list; refused")
        cast("list[Value]", container).extend(values)

    def set_items(self, values: list[Value]) -> None:
        """Add keys and values, which alternate, to the dict at the top of the stack."""
        container = self.top()
        if not isinstance(container, PickledDict):
            raise RefusedError(f"sets items of {type_name(container)} as of a dict; refused")
        if len(values) % 2:
            raise RefusedError("not a whole pickle: a key has no value")
        container.pairs += zip(values[::2], values[1::2], strict=True)

    def new_items(self, values: list[Value]) -> None:
        """Push a dict of these keys and values."""
        self.push(PickledDict())
        self.set_items(values)

    # The memo

    def get(self, index: int) -> None:
        """Push the value that the memo holds at an index."""
        if str(index) not in self._memo:
            raise RefusedError(f"not a whole pickle: there is nothing at place {index!s:.40} of its memory")
        self.push(self._memo[str(index)])

    def put(self, index: int | None) -> None:
        """Store the top of the stack in the memo, by default at the next index."""
        self._memo[str(len(self._memo) if index is None else index)] = self.top()

    # Globals and calls

    def look_up(self, module: Value, name: Value) -> None:
        """Push what stands for a global, or refuse it."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError(
                f"asks for a name that is no text ({type_name(module)}, {type_name(name)}); refused"
            )
        if max(len(module), len(name)) > _LONGEST_LINE:
            raise RefusedError(f"asks for a name of more than {_LONGEST_LINE:,} characters; refused")
        found = self._find(module, name)
        if found is None:
            shown = ascii(f"{module}.{name}")[1:-1]
            raise RefusedError(f"asks for {shown:.200}, which no file of tensors needs; refused{_hint(module)}")
        self.push(found)

    def call(self) -> None:
        """Replace a function and its arguments by its result."""
        function, arguments = self.last(2)
        if not isinstance(function, AllowedFunction) or not isinstance(arguments, tuple):
            raise RefusedError(f"calls {type_name(function)} with {type_name(arguments)}; refused")
        checked = cast("tuple[Value, ...]", arguments)
        self._charge(checked)
        for value in checked:
            self._charge(value)
        result = function.run(checked)
        if result is INVALID_ARGUMENTS:
            kinds = ", ".join(map(type_name, checked[:8])) + (", ..." if len(checked) > 8 else "")
            raise RefusedError(f"gives {function.name} what it cannot take: ({kinds}); refused")
        self.push(result)

    def build(self) -> None:
        """Set the state of the object below it on the stack."""
        state = self.pop()
        target = self.top()
        self._charge(state)
        for value in cast("tuple[Value, ...]", state) if isinstance(state, tuple) else ():  # NumPy's
            self._charge(value)
        if not isinstance(target, Buildable) or not target.build(state):
            raise RefusedError(
                f"gives {type_name(target)} a state that it cannot take: {type_name(state)}; refused"
            )

    def load_persistent(self) -> None:
        """Replace a persistent identifier by what stands for it."""
        self.push(self._persistent(self.pop()))


def _check_protocol(protocol: int) -> None:
    if protocol > _NEWEST_PROTOCOL:
        raise RefusedError(f"has a pickle of protocol {protocol}; those up to {_NEWEST_PROTOCOL} are known")


def _hint(module: str) -> str:
    """Return advice for classes of the user or of a framework, and for torch's modules.

    There is none for the standard library and the rest of torch, which occur in state dicts too.
    """
    if module.partition(".")[0] in stdlib_module_names or module in {"__builtin__", "copy_reg"}:
        return ""
    if f"{module}.".startswith("torch.") and not module.startswith(("torch.nn.", "torch.ao.nn.", "torch.optim.")):
        return ""
    return ". It holds whole objects, not their tensors alone: save model.state_dict()"


_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_DATA = (
    "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip

_OPERATIONS: dict[str, Callable[[Unpickler, Value], None]] = {
    **dict.fromkeys(_INTEGERS, Unpickler.push_integer),
    **dict.fromkeys(_DATA, Unpickler.push),
    "BYTEARRAY8": lambda m, data: m.push(bytes(data)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(m.last(1)),
    "TUPLE2": lambda m, _: m.push(m.last(2)),
    "TUPLE3": lambda m, _: m.push(m.last(3)),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.to_mark()),
    "FROZENSET": lambda m, _: m.push(m.to_mark()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.to_mark()),
    "EMPTY_DICT": lambda m, _: m.new_items([]),
    "DICT": lambda m, _: m.new_items(m.to_mark()),
    "SETITEM": lambda m, _: m.set_items([*m.last(2)]),
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.discard(),
    "POP_MARK": lambda m, _: (m.to_mark(), None)[1],
    "DUP": lambda m, _: m.push(m.top()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Unpickler.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Unpickler.put),
    "GLOBAL": lambda m, names: m.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.look_up(*m.last(2)),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.load_persistent(),
    "PROTO": lambda m, protocol: _check_protocol(protocol),
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
}
"""The opcodes that are run, by their names in ``pickletools``, each with its argument.

Others are refused: instances of old-style classes, extension codes, persistent identifiers as lines of text, and
out-of-band buffers.
"""
