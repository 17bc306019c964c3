"""Vectors for Numba: a type as wide as the CPU's registers, its arithmetic, and the product of small matrices.

Numba compiles loops over scalars and leaves it to LLVM whether they become vector instructions. A time loop
cannot be left to that: here a vector is a type of its own, so that the kernels say what happens, and the
product keeps a tile of the result in registers. What LLVM gets is in the comments below each name.

Arrays are C-contiguous; a place in one is a flat element offset, which is not checked.
"""

import operator
from typing import Any

from nplstm.engines.compiled._numba import (
    binding,
    cgutils,
    intrinsic,
    ir,
    models,
    overload,
    register_model,
    types,
)

__all__ = [
    "INDEX",
    "TILE_ROWS",
    "Vector",
    "at_most",
    "bits_of_power",
    "broadcast",
    "call",
    "fma",
    "lanes",
    "load",
    "load_first",
    "place_of",
    "polynomial",
    "store",
    "store_first",
    "vector_length",
    "with_sign",
]


def _registers() -> tuple[int, int]:
    """Return the bytes of a vector register, and how many rows of four vectors fit into the registers."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 6  # 32 registers: 24 sums, 4 weights, and what is broadcast
    if features.get("avx"):
        return 32, 3  # 16 registers
    return 16, 6 if features.get("neon") else 3


_BYTES, TILE_ROWS = _registers()
INDEX = ir.IntType(64)


def vector_length(itemsize: int) -> int:
    """How many elements of so many bytes a vector has."""
    return _BYTES // itemsize


class Vector(types.Type):
    """A vector of one element type that fills a register."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = _BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")

    @property
    def element(self) -> Any:
        """LLVM's element type."""
        return ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()

    @property
    def llvm(self) -> Any:
        """LLVM's vector type."""
        return ir.VectorType(self.element, self.lanes)

    @property
    def suffix(self) -> str:
        """What LLVM's intrinsics are called for this type."""
        return f"v{self.lanes}f{self.dtype.bitwidth}"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


def broadcast(builder: Any, scalar: Any, kind: Vector) -> Any:
    """All lanes alike."""
    undefined = ir.Constant(kind.llvm, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
    )


def _as_vector(context: Any, builder: Any, value: Any, given: Any, kind: Vector) -> Any:
    if isinstance(given, Vector):
        return value
    return broadcast(builder, context.cast(builder, value, given, kind.dtype), kind)


def _arithmetic(emit: Any) -> Any:
    """Make a function of vectors and numbers out of one that emits LLVM's instruction."""

    @intrinsic
    def function(typing: Any, x: Any, y: Any) -> Any:
        kind = x if isinstance(x, Vector) else y

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pairs = zip(values, signature.args, strict=True)
            return emit(builder, kind, *(_as_vector(context, builder, v, t, kind) for v, t in pairs))

        return kind(x, y), codegen

    return function


def _operator(python: Any, instruction: str) -> None:
    """Give an operator of Python a meaning for vectors."""

    def emit(builder: Any, kind: Vector, x: Any, y: Any) -> Any:
        return getattr(builder, instruction)(x, y)

    function = _arithmetic(emit)

    @overload(python)
    def implementation(x: Any, y: Any) -> Any:
        def on_vectors(x: Any, y: Any) -> Any:
            return function(x, y)

        return on_vectors if isinstance(x, Vector) or isinstance(y, Vector) else None


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


def _select(b: Any, kind: Vector, x: Any, limit: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, limit), limit, x)


def call(builder: Any, name: str, kind: Vector, *arguments: Any) -> Any:
    """Call LLVM's intrinsic of that name on vectors."""
    signature = ir.FunctionType(kind.llvm, [kind.llvm] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{kind.suffix}")
    return builder.call(function, arguments)


def _copy_sign(builder: Any, kind: Vector, x: Any, y: Any) -> Any:
    return call(builder, "copysign", kind, x, y)


at_most = _arithmetic(_select)
"""``at_most(x, limit)``: the lesser; where x is NaN, NaN."""

with_sign = _arithmetic(_copy_sign)
"""``with_sign(x, y)``: the absolute value of x with the sign of y."""


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """``x * y + z``, rounded once where the CPU can."""
    kind = next(t for t in (x, y, z) if isinstance(t, Vector))

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = zip(values, signature.args, strict=True)
        return call(builder, "fmuladd", kind, *(_as_vector(context, builder, v, t, kind) for v, t in pairs))

    return kind(x, y, z), codegen


@intrinsic
def bits_of_power(typing: Any, shifted: Any) -> Any:
    """``2**n`` for a vector ``n + 1.5 * 2**m``, m the bits of the mantissa: n stands in the lowest bits."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        single = shifted.dtype == types.float32
        integer = ir.IntType(32 if single else 64)
        integers = ir.VectorType(integer, shifted.lanes)
        mantissa, one = (23, 0x3F800000) if single else (52, 0x3FF0000000000000)
        bits = builder.bitcast(values[0], integers)
        exponent = builder.shl(bits, ir.Constant(integers, [mantissa] * shifted.lanes))
        return builder.bitcast(builder.add(exponent, ir.Constant(integers, [one] * shifted.lanes)), shifted.llvm)

    return shifted(shifted), codegen


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """How many elements of this array a vector has."""
    count = Vector(array.dtype).lanes

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.get_constant(types.intp, count)

    return types.intp(array), codegen


def place_of(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    """Return the pointer to an element."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [offset])


def _vector_place_of(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    return builder.bitcast(place_of(context, builder, kind, array, offset), Vector(kind.dtype).llvm.as_pointer())


@intrinsic
def load(typing: Any, array: Any, offset: Any) -> Any:
    """Return the vector that begins at an element."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_vector_place_of(context, builder, array, *values), align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typing: Any, array: Any, offset: Any, vector: Any) -> Any:
    """Write a vector from an element on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _vector_place_of(context, builder, array, *values[:2])
        value = _as_vector(context, builder, values[2], vector, Vector(array.dtype))
        builder.store(value, place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


def _first_lanes(builder: Any, kind: Vector, count: Any) -> Any:
    """Return the mask of the first ``count`` lanes."""
    integers = ir.VectorType(INDEX, kind.lanes)
    undefined = ir.Constant(integers, ir.Undefined)
    first = builder.insert_element(undefined, count, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
    return builder.icmp_signed(
        "<", ir.Constant(integers, list(range(kind.lanes))), builder.shuffle_vector(first, undefined, zeros)
    )


@intrinsic
def load_first(typing: Any, array: Any, offset: Any, count: Any) -> Any:
    """As ``load``, of ``count`` elements; the other lanes are zero and their memory is not touched."""
    kind = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        mask = _first_lanes(builder, kind, values[2])
        pointer = kind.llvm.as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(kind.llvm, [pointer, ir.IntType(32), mask.type, kind.llvm]),
            f"llvm.masked.load.{kind.suffix}.p0",
        )
        place = _vector_place_of(context, builder, array, *values[:2])
        align = ir.IntType(32)(array.dtype.bitwidth // 8)
        return builder.call(function, [place, align, mask, ir.Constant(kind.llvm, [0.0] * kind.lanes)])

    return kind(array, types.intp, types.intp), codegen


@intrinsic
def store_first(typing: Any, array: Any, offset: Any, count: Any, vector: Any) -> Any:
    """As ``store``, of the first ``count`` lanes."""
    kind = Vector(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        mask = _first_lanes(builder, kind, values[2])
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [kind.llvm, kind.llvm.as_pointer(), ir.IntType(32), mask.type]),
            f"llvm.masked.store.{kind.suffix}.p0",
        )
        place = _vector_place_of(context, builder, array, *values[:2])
        builder.call(function, [values[3], place, ir.IntType(32)(array.dtype.bitwidth // 8), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, kind), codegen


def polynomial(*coefficients: float) -> Any:
    """Make ``coefficients[0] + coefficients[1] * x + ...`` of a vector, by Horner's rule."""

    @intrinsic
    def function(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            numbers = [broadcast(builder, ir.Constant(x.element, number), x) for number in coefficients]
            result = numbers.pop()
            while numbers:
                result = call(builder, "fmuladd", x, result, values[0], numbers.pop())
            return result

        return x(x), codegen

    return function
