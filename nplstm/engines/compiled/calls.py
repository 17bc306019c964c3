"""A call of a kernel as a place in memory: whoever takes it up needs neither Python nor its lock.

A kernel takes the address of its operands. They are put there by who holds the arrays, for as long as the call
lasts; another thread, which waits in compiled code, finds kernel and operands by two addresses and starts at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nplstm._typing import HostIndices
from nplstm.engines.compiled._numba import cfunction, cgutils, compiled, intrinsic, ir, types

__all__ = ["Calls", "Kernel", "Task", "call", "withdraw"]

_WORDS = 256
"""Of a record, 64 bits each: more than the operands of any kernel take."""


@intrinsic
def withdraw(typing: Any, place: Any) -> Any:
    """Return the operands of a call. The arrays are borrowed: whoever calls keeps them alive."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kinds = signature.return_type
        pointer = context.get_value_type(kinds).as_pointer()
        found = builder.load(builder.bitcast(values[0], pointer))
        for k, kind in enumerate(kinds.types):
            if isinstance(kind, types.Array):  # without an owner there is nothing to be counted
                array = context.make_array(kind)(context, builder, builder.extract_value(found, k))
                array.meminfo = cgutils.get_null_value(array.meminfo.type)
                array.parent = cgutils.get_null_value(array.parent.type)
                found = builder.insert_value(found, array._getvalue(), k)
        return found

    return place.dtype(place), codegen


@intrinsic
def _deposit(typing: Any, record: Any, operands: Any) -> Any:
    """Put operands into a record."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        record_array, found = values
        size = context.get_abi_sizeof(found.type)
        if size > 8 * _WORDS:
            raise TypeError(f"operands of {size} bytes do not fit into a record")
        place = context.make_array(signature.args[0])(context, builder, record_array).data
        builder.store(found, builder.bitcast(place, found.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(record, operands), codegen


@intrinsic
def call(typing: Any, kernel: Any, record: Any) -> Any:
    """Run a kernel on the operands in a record, both given by their addresses."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        function = builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), [pointer]).as_pointer())
        builder.call(function, [builder.inttoptr(values[1], pointer)])
        return context.get_dummy_value()

    return types.void(kernel, record), codegen


@intrinsic
def _call_with(typing: Any, kernel: Any, operands: Any) -> Any:
    """Call a kernel on operands of one's own."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = cgutils.alloca_once_value(builder, values[1])
        function = builder.inttoptr(values[0], ir.FunctionType(ir.VoidType(), [place.type]).as_pointer())
        builder.call(function, [place])
        return context.get_dummy_value()

    return types.void(kernel, operands), codegen


@compiled("void(int64[:, ::1])")
def _run(calls: Any) -> None:
    call(calls[0, 0], calls[0, 1])


def _put(record: Any, operands: Any) -> None:
    _deposit(record, operands)


def _now(kernel: Any, operands: Any) -> None:
    _call_with(kernel, operands)


class Kernel:
    """A compiled kernel.

    Parameters
    ----------
    function : callable
        Takes the place of its operands, and withdraws them.
    *operands
        Their types.
    """

    def __init__(self, function: Callable[[Any], None], *operands: Any) -> None:
        kinds = types.Tuple(operands)
        self._compiled = cfunction(types.void(types.CPointer(kinds)))(function)
        self._now = compiled(types.void(types.int64, kinds))(_now)
        self._put = compiled(types.void(types.Array(types.int64, 1, "C"), kinds))(_put)
        self.address: int = self._compiled.address

    def put(self, record: HostIndices, operands: tuple[Any, ...]) -> None:
        """Put the operands of a call into a record; their arrays have to live until it is over."""
        self._put(record, operands)

    def __call__(self, *operands: Any) -> None:
        """Run the kernel here and now."""
        self._now(self.address, operands)


class Task(NamedTuple):
    """A kernel and its operands."""

    kernel: Kernel
    operands: tuple[Any, ...]

    def run(self) -> None:
        """Run it here and now."""
        self.kernel(*self.operands)


class Calls:
    """Tasks put down side by side, to be run once or again and again.

    Attributes
    ----------
    addresses : HostIndices, shape (tasks, 2)
        Of their kernels and operands.
    """

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks  # whose arrays live as long
        self._records: HostIndices = np.zeros((len(tasks), _WORDS), np.int64)
        self.addresses: HostIndices = np.empty((len(tasks), 2), np.int64)
        place = self._records.__array_interface__["data"][0]
        for k, (kernel, operands) in enumerate(tasks):
            kernel.put(self._records[k], operands)
            self.addresses[k] = kernel.address, place + 8 * _WORDS * k

    def run(self) -> None:
        """Run the first, or the only one, here and now."""
        _run(self.addresses)
