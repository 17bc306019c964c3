"""The product of a few rows with packed weights: what nearly all the time of an LSTM goes into.

A tile of the result stays in registers while the sum runs. Weights are packed in the order in which the sum reads
them, once for many steps; a general matrix product has to pack them at each call, which for the few rows of a step
takes longer than the product itself.
"""

from typing import Any

from nplstm.engines.compiled._numba import intrinsic, njit, types
from nplstm.engines.compiled.simd import INDEX, TILE_ROWS, Vector, broadcast, call, place_of

__all__ = ["multiply_1", "multiply_2", "multiply_4", "transposed_1", "transposed_2", "transposed_4"]


def product(rows: int, vectors: int, *, transposed: bool = False) -> Any:
    """Make the product of ``rows`` rows with ``vectors`` columns of vectors, its sums held in registers.

    ::

        c[r, v] += sum over k < K of a[r, k] * w[k, v]

    The function made takes ``(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)``: three arrays with
    the offsets of their first elements, and how far apart the rows of ``c`` and ``a`` and the vectors of a row of
    ``c`` stand. With ``transposed`` it is ``a[k, r]``, and ``a_row`` how far apart the k stand. ``w`` is packed:
    for each k, ``vectors`` vectors side by side.
    """

    @intrinsic
    def function(
        typing: Any,
        c: Any,
        c_start: Any,
        c_row: Any,
        c_column: Any,
        a: Any,
        a_start: Any,
        a_row: Any,
        w: Any,
        w_start: Any,
        K: Any,
    ) -> Any:
        kind = Vector(c.dtype)
        align = c.dtype.bitwidth // 8
        tile = [(r, v) for r in range(rows) for v in range(vectors)]

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            c_array, c_start, c_row, c_column, a_array, a_start, a_row, w_array, w_start, K = values
            pointer = kind.llvm.as_pointer()
            first = place_of(context, builder, c, c_array, c_start)
            sums: dict[tuple[int, int], Any] = {}
            for r, v in tile:
                offset = builder.add(builder.mul(c_row, INDEX(r)), builder.mul(c_column, INDEX(v)))
                sums[r, v] = builder.bitcast(builder.gep(first, [offset]), pointer)
            before = {key: builder.load(place, align=align) for key, place in sums.items()}
            row = place_of(context, builder, a, a_array, a_start)
            a_rows = [
                builder.gep(row, [INDEX(r) if transposed else builder.mul(a_row, INDEX(r))]) for r in range(rows)
            ]
            weights = place_of(context, builder, w, w_array, w_start)
            entry = builder.block
            loop, done = builder.append_basic_block("product"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", K, INDEX(0)), loop, done)
            builder.position_at_end(loop)
            k = builder.phi(INDEX)
            k.add_incoming(INDEX(0), entry)
            running = {key: builder.phi(kind.llvm) for key in tile}
            place = builder.gep(weights, [builder.mul(k, INDEX(vectors * kind.lanes))])
            w_k = [
                builder.load(builder.bitcast(builder.gep(place, [INDEX(v * kind.lanes)]), pointer), align=align)
                for v in range(vectors)
            ]
            along = builder.mul(k, a_row) if transposed else k
            after: dict[tuple[int, int], Any] = {}
            for r in range(rows):
                a_rk = broadcast(builder, builder.load(builder.gep(a_rows[r], [along])), kind)
                for v in range(vectors):
                    after[r, v] = call(builder, "fmuladd", kind, a_rk, w_k[v], running[r, v])
            following = builder.add(k, INDEX(1))
            k.add_incoming(following, loop)
            for key in tile:
                running[key].add_incoming(before[key], entry)
                running[key].add_incoming(after[key], loop)
            builder.cbranch(builder.icmp_signed("<", following, K), loop, done)
            builder.position_at_end(done)
            results = {key: builder.phi(kind.llvm) for key in tile}
            for key in tile:
                results[key].add_incoming(before[key], entry)
                results[key].add_incoming(after[key], loop)
            for key in tile:
                builder.store(results[key], sums[key], align=align)
            return context.get_dummy_value()

        index = types.intp
        return types.void(c, index, index, index, a, index, index, w, index, index), codegen

    return function


def _by_rows(vectors: int, *, transposed: bool = False) -> Any:
    """Make the product of any number of rows: in tiles of nearly equal height."""
    one, two, three, four, five, six = (product(rows, vectors, transposed=transposed) for rows in range(1, 7))

    @njit(nogil=True)
    def multiply(
        c: Any,
        c_start: Any,
        c_row: Any,
        c_column: Any,
        a: Any,
        a_start: Any,
        a_row: Any,
        w: Any,
        w_start: Any,
        K: Any,
        rows: Any,
    ) -> None:
        while rows > 0:
            tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
            n = (rows + tiles - 1) // tiles
            if n == 1:
                one(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            elif n == 2:
                two(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            elif n == 3:
                three(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            elif n == 4:
                four(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            elif n == 5:
                five(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            else:
                six(c, c_start, c_row, c_column, a, a_start, a_row, w, w_start, K)
            rows -= n
            c_start += n * c_row
            a_start += n if transposed else n * a_row

    return multiply


multiply_1, multiply_2, multiply_4 = _by_rows(1), _by_rows(2), _by_rows(4)
transposed_1, transposed_2, transposed_4 = (_by_rows(vectors, transposed=True) for vectors in (1, 2, 4))
