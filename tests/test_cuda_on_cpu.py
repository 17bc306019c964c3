"""The emulator of a CUDA device (cuda_on_cpu): its results, and that it reports each kind of fault."""

import gc
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import require
from cuda_on_cpu import CudaOnCpu, KernelFault, build, compiler
from strict_backend import StrictArray

from nplstm.backends._cuda import Device
from nplstm.engines.cuda.source import read_source

DEVICE = Path(__file__).parent / "cuda_on_cpu" / "device.cuh"
SEEDS = range(12)
ARGUMENTS = np.dtype([(name, "u8") for name in ("source", "target", "flags", "word")] + [("n", "u4"), ("m", "u4")])
HEAD = """
struct Arguments { u32 *source, *target, *flags, *word; u32 n, m; };
extern "C" __global__ void __launch_bounds__(1024, 1) test(const Arguments a)
{
    const u32 thread = threadIdx.x, block = blockIdx.x;
    u32* shared = reinterpret_cast<u32*>(block_memory());
"""


@pytest.fixture(autouse=True, scope="module")
def gxx():
    if reason := compiler():
        require("g++", reason)


class Bench:
    """A device, and arrays for one kernel."""

    def __init__(self, body, *, source=(0,), target=0, flags=8, options=(), **cuda):
        self.cuda = CudaOnCpu(**cuda)
        self.source, self.target = np.array(source, "uint32"), np.zeros(target, "uint32")
        self.flags, self.word = np.zeros(flags, "uint32"), self.cuda.host_word()
        self.code = read_source("device.cuh") + HEAD + body + "\n}\n"
        self.kernel = self.cuda.kernel(self.code, "test", ("--std=c++17", *options))

    def arguments(self, n=0, m=0):
        addresses = [self.cuda.address(array) for array in (self.source, self.target, self.flags)]
        return np.array([(*addresses, self.word.address, n, m)], ARGUMENTS)

    def launch(self, grid=1, threads=32, memory=0, n=0, m=0, together=True):
        grid = grid if isinstance(grid, tuple) else (grid, 1)
        self.kernel.launch(grid, threads, self.arguments(n, m), block_memory=memory, together=together)
        return self.target

    def faults(self, *args, **kwargs):
        with pytest.raises(KernelFault) as caught:
            self.launch(*args, **kwargs)
        return caught.value.faults

    def fault(self, *args, **kwargs):
        """Return the one fault that there is, without what is in brackets after a line's number."""
        found = self.faults(*args, **kwargs)
        assert len(found) == 1, found
        return re.sub(r"line \d+ ", "line ", found[0])


# ---------------------------------------------------------------------------------------------------- numbers

CONVERT = """
    for (u32 i = block * blockDim.x + thread; i < a.n; i += gridDim.x * blockDim.x) {
        const u32 bits = load(a.source + i);
        store(a.target + i, u32(CONVERSION));
    }
"""


def convert(bits, conversion):
    bench = Bench(CONVERT.replace("CONVERSION", conversion), source=bits, target=len(bits), race_check=False)
    return bench.launch(4, 64, n=len(bits))


def hard_floats():
    """Bits of floats: every high half with low halves near where rounding changes, and any."""
    rng = np.random.default_rng(0)
    high = np.arange(65536, dtype="uint32") << 16
    low = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    return np.concatenate(
        [*(high | np.uint32(part) for part in low), rng.integers(0, 2**32, 100_000, dtype="uint32")]
    )


def test_float16_to_float():
    halves = np.arange(65536, dtype="uint32")
    found = convert(halves, "bits_of(widen(float16{u16(bits)}))").view("float32")
    np.testing.assert_array_equal(found, halves.astype("uint16").view("float16").astype("float32"))
    assert np.signbit(found[0x8000])


def test_bfloat16_to_float():
    halves = np.arange(65536, dtype="uint32")
    np.testing.assert_array_equal(convert(halves, "bits_of(widen(bfloat16{u16(bits)}))"), halves << 16)


def test_float_to_float16():
    halves = np.arange(0x7C00, dtype="uint16").view("float16").astype("float32")
    middle = (halves[1:] + halves[:-1]) / 2
    ties = np.concatenate([halves, middle, np.nextafter(middle, 0), np.nextafter(middle, np.float32(1e30))])
    bits = np.concatenate([hard_floats(), ties.view("uint32"), (-ties).view("uint32")])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = bits.view("float32").astype("float16")
    found = convert(bits, "to_float16(from_bits(bits)).bits").astype("uint16")
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(found[numbers], expected.view("uint16")[numbers])
    assert np.all(found[~numbers] == 0x7FFF)


def shortened(bits, kept, ties_to_even):
    """Round floats to their first bits: to the nearer of the two neighbours, that are one step apart."""
    step = np.uint32(1 << 32 - kept)
    size = bits & np.uint32(0x7FFFFFFF)
    below = size & ~(step - np.uint32(1))
    past_middle = (size - below).astype("int64") * 2 - int(step)
    odd = (below & step) != 0
    up = (past_middle > 0) | ((past_middle == 0) & (odd if ties_to_even else True))
    return (bits & np.uint32(0x80000000)) | np.where(up, below + step, below)


@pytest.mark.parametrize(
    ("conversion", "kept", "ties_to_even", "nan"),
    [
        ("u32(to_bfloat16(from_bits(bits)).bits) << 16", 16, True, 0x7FFF0000),
        ("to_tf32(from_bits(bits))", 19, False, 0x7FFFFFFF),
    ],
    ids=["bfloat16", "tf32"],
)
def test_float_to_its_first_bits(conversion, kept, ties_to_even, nan):
    bits = hard_floats()
    is_nan = np.isnan(bits.view("float32"))
    found = convert(bits, conversion)
    np.testing.assert_array_equal(found[~is_nan], shortened(bits, kept, ties_to_even)[~is_nan])
    assert np.all(found[is_nan] == nan)
    assert is_nan.sum() > 1000


def test_the_counterpart_has_all_that_the_device_has():
    defined = re.compile(r"^(?!struct)(?:\w+[ *]+)+(\w+)\(", re.MULTILINE)
    real, ours = (set(defined.findall(text)) for text in (read_source("device.cuh"), DEVICE.read_text("utf-8")))
    assert {"widen", "multiply_tf32", "block_memory", "take", "look"} <= real <= ours


# ---------------------------------------------------------------------------------------------------- products
#
# The fragments as the PTX ISA has them, element by element.

GROUP, IN_GROUP = np.arange(32) // 4, np.arange(32) % 4

MULTIPLY = """
    float d[4];
    u32 fragment[4];
    for (u32 i = 0; i < 4; i++) d[i] = from_bits(load(a.source + 4 * thread + i));
    for (u32 i = 0; i < 4; i++) fragment[i] = load(a.source + 128 + 4 * thread + i);
    MULTIPLY(d, fragment, load(a.source + 256 + 2 * thread), load(a.source + 256 + 2 * thread + 1));
    for (u32 i = 0; i < 4; i++) store(a.target + 4 * thread + i, bits_of(d[i]));
"""


def bits_of_kind(matrix, kind):
    if kind == "float16":
        return matrix.astype("float16").view("uint16").astype("uint32")
    return matrix.astype("float32").view("uint32") >> np.uint32(16 if kind == "bfloat16" else 0)


def fragment_a(a, kind):
    if kind == "tf32":
        places = [(GROUP + 8 * (i in {1, 3}), IN_GROUP + 4 * (i in {2, 3})) for i in range(4)]
        return np.stack([a[place] for place in places], axis=1)
    rows = [GROUP if i < 2 or 4 <= i < 6 else GROUP + 8 for i in range(8)]
    columns = [IN_GROUP * 2 + (i & 1) + (8 if i >= 4 else 0) for i in range(8)]
    return pairs([a[place] for place in zip(rows, columns, strict=True)])


def fragment_b(b, kind):
    if kind == "tf32":
        return np.stack([b[IN_GROUP, GROUP], b[IN_GROUP + 4, GROUP]], axis=1)
    return pairs([b[IN_GROUP * 2 + (i & 1) + (8 if i >= 2 else 0), GROUP] for i in range(4)])


def pairs(elements):
    return np.stack(
        [low | high << np.uint32(16) for low, high in zip(elements[::2], elements[1::2], strict=True)], axis=1
    )


ROWS_C = np.stack([GROUP if i < 2 else GROUP + 8 for i in range(4)], axis=1)
COLUMNS_C = np.stack([IN_GROUP * 2 + (i & 1) for i in range(4)], axis=1)
KINDS = {"tf32": 8, "float16": 16, "bfloat16": 16}


def multiply(d, a, b, kind):
    fragments = [
        d.astype("float32")[ROWS_C, COLUMNS_C].view("uint32"),
        fragment_a(bits_of_kind(a, kind), kind),
        fragment_b(bits_of_kind(b, kind), kind),
    ]
    bench = Bench(
        MULTIPLY.replace("MULTIPLY", f"multiply_{kind}"),
        source=np.concatenate([part.ravel() for part in fragments]),
        target=128,
    )
    found = np.full((16, 8), np.nan, "float32")
    found[ROWS_C, COLUMNS_C] = bench.launch().view("float32").reshape(32, 4)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_product_of_whole_numbers(kind):
    K = KINDS[kind]
    a, b = np.arange(16 * K).reshape(16, K) % 251, np.arange(K * 8).reshape(K, 8)[::-1] % 241
    d = np.arange(128).reshape(16, 8)
    np.testing.assert_array_equal(multiply(d, a, b, kind), d + a @ b)


@pytest.mark.parametrize("kind", KINDS)
def test_product_of_any_numbers(kind):
    rng = np.random.default_rng(1)
    K = KINDS[kind]
    a, b, d = (rng.standard_normal(shape).astype("float32") for shape in ((16, K), (K, 8), (16, 8)))
    if kind == "float16":
        a, b = a.astype("float16"), b.astype("float16")
    else:
        a, b = ((x.view("uint32") & np.uint32(0xFFFF0000)).view("float32") for x in (a, b))
    exact = d + a.astype("float64") @ b.astype("float64")
    found = multiply(d, a, b, kind)
    assert np.all(np.abs(found) <= np.abs(exact))  # rounded towards zero
    np.testing.assert_allclose(found, exact, rtol=2.0**-23, atol=0)


def test_tf32_leaves_the_low_bits_out():
    a = (np.full((16, 8), 1.5, "float32").view("uint32") | np.uint32(0x1FFF)).view("float32")
    np.testing.assert_array_equal(multiply(np.zeros((16, 8)), a, np.eye(8), "tf32"), np.full((16, 8), 1.5))


def test_sums_are_rounded_towards_zero():
    one, small = np.ones((16, 8)), np.zeros((16, 8))
    small[:, 0] = 2.0**-24 * 1.5  # to the nearest, 1 + this were the next number after 1
    b = np.zeros((8, 8))
    b[0] = 1
    np.testing.assert_array_equal(multiply(one, small, b, "tf32"), one)
    np.testing.assert_array_equal(multiply(-one, -small, b, "tf32"), -one)


# ---------------------------------------------------------------------------------------------- lanes and blocks


@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_exchange_values(seed):
    body = """
        u32 sum = thread;
        for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(0xffffffff, sum, bits);
        store(a.target + thread, sum + 1000 * __shfl_sync(0xffffffff, thread, 5)
                                     + (__all_sync(0xffffffff, thread < 64) ? 1000000 : 0)
                                     + (__all_sync(0xffffffff, thread % 32 < 31) ? 1000000000 : 0));
    """
    found = Bench(body, target=96, seed=seed).launch(threads=96)
    warp = np.arange(96) // 32
    np.testing.assert_array_equal(found, 496 + 1024 * warp + 1000 * (5 + 32 * warp) + 1000000 * (warp < 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_and_their_answer(seed):
    body = """
        for (u32 step = 0; step < a.n; step++) {
            put(shared + thread, thread + step);
            const bool all = __syncthreads_and(thread != step);
            const u32 other = take(shared + (thread + 7) % blockDim.x);
            __syncthreads();
            store(a.target + step * blockDim.x + thread, other * 2 + all);
        }
    """
    found = Bench(body, target=400, seed=seed).launch(threads=80, memory=320, n=5).reshape(5, 80)
    steps, threads = np.arange(5)[:, None], np.arange(80)
    np.testing.assert_array_equal(found, 2 * ((threads + 7) % 80 + steps))


# Each block sends a part to all in each step, as the recurrence does; two buffers take turns.
EXCHANGE = """
    const u32 threads = blockDim.x, width = gridDim.x * threads;
    u32 value = block * threads + thread;
    for (u32 step = 0; step < a.n; step++) {
        u32* buffer = a.target + step % 2 * width;
        send(buffer + block * threads + thread, value);
        __syncthreads();
        if (thread == 0) announce(a.flags + block, step + 1);
        if (thread < gridDim.x)
            while (look(a.flags + thread) < step + 1) {}
        __syncthreads();
        value = 0;
        for (u32 i = 0; i < width / 4; i++) {
            const quad q = receive(reinterpret_cast<const quad*>(buffer) + i);
            value += (q.word[0] ^ q.word[1]) + (q.word[2] ^ q.word[3]) + step;
        }
        value += block * threads + thread;
    }
    store(a.source + block * threads + thread, value);
"""


def exchanged(width, steps):
    value = np.arange(width, dtype="uint32")
    for step in range(steps):
        q = value.reshape(-1, 4)
        total = ((q[:, 0] ^ q[:, 1]) + (q[:, 2] ^ q[:, 3]) + np.uint32(step)).sum(dtype="uint32")
        value = np.arange(width, dtype="uint32") + total
    return value


@pytest.mark.parametrize("chaos", [False, True], ids=["", "chaos"])
@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_exchange_values(seed, chaos):
    bench = Bench(EXCHANGE, source=np.zeros(160), target=320, seed=seed, chaos=chaos)
    bench.launch(5, 32, n=6)
    np.testing.assert_array_equal(bench.source, exchanged(160, 6))


def test_a_seed_is_a_schedule():
    body = "store(a.target, thread + 64 * block);"  # the last to write
    orders = []
    for seed in [*range(20), *range(20)]:
        bench = Bench(body, target=1, race_check=False, seed=seed)
        orders.append(bench.launch(4, 64)[0])
    assert orders[:20] == orders[20:]
    assert len(set(orders[:20])) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_that_have_ended_count_as_come(seed):
    body = """
        if (thread >= 48 || thread == 3) return;
        put(shared + thread, thread);
        __syncwarp();
        __syncthreads();
        store(a.target + thread, take(shared + 47 - thread % 8));
    """
    found = Bench(body, target=48, seed=seed).launch(threads=64, memory=256)
    there = np.arange(48) != 3
    np.testing.assert_array_equal(found[there], (47 - np.arange(48) % 8)[there])


@pytest.mark.parametrize("warps", [0, 1], ids=["block", "warp"])
def test_a_thread_that_ends_last(warps):
    body = """
        if (thread == 40) { for (int i = 0; i < 9; i++) look(a.flags); return; }
        if (a.n) __syncwarp();
        __syncthreads();
        store(a.target + thread, 1u);
    """
    found = Bench(body, target=64).launch(threads=64, n=warps)
    np.testing.assert_array_equal(found, np.arange(64) != 40)


def test_blocks_get_ahead_of_others():
    body = """
        u32 most = 0;
        for (u32 i = 1; i <= a.n; i++) {
            announce(a.flags + block, i);
            most = max(most, i - min(i, look(a.flags + (block + 1) % gridDim.x)));
        }
        store(a.target + block, most);
    """
    assert Bench(body, target=4).launch(4, 1, n=400).max() <= 2  # they take turns
    assert max(Bench(body, target=4, seed=seed).launch(4, 1, n=400).max() for seed in (1, 2, 3)) > 150


def test_chaos_takes_turns_away():
    for body in (
        "for (u32 i = 0; i < 9; i++) send(a.target, i);",
        "for (u32 i = 0; i < 9; i++) receive(reinterpret_cast<const quad*>(a.target));",
        "for (u32 i = 0; i < 9; i++) announce(a.flags, i);",
    ):
        bench = Bench(body, target=4, max_turns=9)
        bench.launch(threads=1)
        bench.cuda.chaos = True
        assert "the limit of turns is reached" in bench.fault(threads=1)


def test_a_grid_of_more_blocks_than_places():
    body = "store(a.target + (blockIdx.y * gridDim.x + block) * blockDim.x + thread, 1 + block + 10 * blockIdx.y);"
    for seed in (0, 1):
        found = Bench(body, target=40 * 32, seed=seed).launch((8, 5), 32, memory=16, together=False)
        expected = 1 + np.arange(8) + 10 * np.arange(5)[:, None]
        np.testing.assert_array_equal(found.reshape(5, 8, 32), np.repeat(expected[..., None], 32, 2))


# ---------------------------------------------------------------------------------------------------- places


def test_out_of_bounds():
    bench = Bench("store(a.target + thread, 7u);", target=31)
    fault = bench.fault()
    assert "thread 31, line `store(a.target + thread, 7u);`: store of 4 bytes out of bounds" in fault
    assert "at byte 124 of 124 of uint32 (31,) (1 times)" in fault
    assert np.all(bench.target == 7)


def test_out_of_bounds_of_all():
    assert "load of 4 bytes out of bounds (32 times)" in Bench("load(reinterpret_cast<const u32*>(16));").fault()


def test_bounds_are_those_of_the_whole_array():
    bench = Bench("store(a.target + a.m + thread, 1u + load(a.target - a.n + thread));", target=0)
    whole = np.zeros(96, "uint32")
    bench.target = whole[32:64]
    bench.launch(n=32, m=32)
    np.testing.assert_array_equal(whole, np.repeat([0, 0, 1], 32))


def test_arrays_that_share_memory():
    memory = bytearray(128)
    bench = Bench("store(a.source + 31 - thread, 1 + load(a.target));", source=())
    bench.source, bench.target = np.frombuffer(memory, "uint32"), np.frombuffer(memory, "uint32", 1, offset=16)
    bench.cuda.race_check = False
    bench.launch()
    assert np.all(bench.source >= 1)


def test_an_array_that_is_gone():
    bench = Bench("store(a.target + thread, 7u);", target=32)
    arguments = bench.arguments()
    bench.target = None
    gc.collect()
    with pytest.raises(
        KernelFault, match=r"out of bounds, at byte 0 of 128 of uint32 \(32,\), an array that is gone"
    ):
        bench.kernel.launch((1, 1), 32, arguments)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("load(reinterpret_cast<const quad*>(a.source + 1 + thread % 3));", "load of 16 bytes"),
        ("receive(reinterpret_cast<const quad*>(a.source + 2));", "receive of 16 bytes"),
        ("send(reinterpret_cast<u32*>(reinterpret_cast<u16*>(a.source) + 1), 1u);", "send of 4 bytes"),
        ("look(reinterpret_cast<u32*>(reinterpret_cast<u16*>(a.flags) + 1));", "look of 4 bytes"),
        ("take(reinterpret_cast<u32*>(block_memory() + 2));", "take of 4 bytes"),
    ],
)
def test_misaligned(body, what):
    aligned = np.zeros(64, "uint32")
    start = -(aligned.ctypes.data // 4) % 4
    bench = Bench(body)
    bench.source = aligned[start : start + 32]
    assert f"{what} at an address that is no multiple of it" in bench.fault(memory=64)


def test_block_memory_out_of_bounds():
    fault = Bench("put(shared + thread, 1u);").fault(memory=120)
    assert "put of 4 bytes out of bounds, at byte 120 of the block's memory (2 times)" in fault


def test_other_memory_is_no_block_memory():
    assert "take of 4 bytes out of bounds" in Bench("take(a.source);").fault(memory=64)
    assert "load of 4 bytes out of bounds" in Bench("load(shared);").fault(memory=64)


def test_block_memory_that_nothing_was_put_into():
    body = "if (thread % 2) put(shared + thread, 1u); __syncthreads(); take(shared + thread);"
    assert "take of 4 bytes, not all of which were ever put, at byte 0" in Bench(body).fault(memory=128)


def test_block_memory_of_the_next_block_is_empty():
    body = "if (block == a.n) put(shared + thread, 1u); take(shared + thread);"
    one_place = Device("CPU", (9, 0), 1, 1024)
    fault = Bench(body, device=one_place).fault(3, 32, memory=128, together=False)
    assert "not all of which were ever put" in fault
    assert "(64 times)" in fault


def test_index_of_an_array_in_registers():
    body = "u32 x[4] = {}; for (u32 i = 0; i < a.n; i++) x[i] = thread; store(a.target, x[a.m]);"
    assert "an index outside of its array" in Bench(body, target=1).fault(n=5)


def test_index_of_a_quad():
    body = "quad q{}; for (u32 i = 0; i < a.n; i++) q.word[i] = thread; store(a.target, q.word[a.m]);"
    assert "an index outside of its array" in Bench(body, target=1).fault(n=5)


def test_registers_that_nothing_was_written_to():
    if not build._flags_of_version():
        pytest.skip("this g++ leaves zeros in them")
    assert np.all(
        Bench("u32 x[4]; if (a.n) x[1] = 1; store(a.target + thread, x[1 + a.m]);", target=32).launch() != 0
    )


def test_a_stack_that_is_too_small():
    with pytest.raises(RuntimeError, match="stack usage"):
        Bench("u32 x[20000]; for (u32 i = 0; i < a.n; i++) x[i] = i; store(a.target, x[a.m]);")


# ---------------------------------------------------------------------------------------------------- orders


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_barrier(seed):
    body = "put(shared + thread, 1u); store(a.target + thread, take(shared + (thread ^ 32)));"
    fault = Bench(body, target=64, seed=seed).faults(threads=64, memory=256)[0]
    assert "take, and nothing orders it after line" in fault or "not all of which were ever put" in fault


@pytest.mark.parametrize("seed", SEEDS)
def test_a_barrier_too_few_between_steps(seed):
    body = """
        for (u32 step = 0; step < a.n; step++) {
            put(shared + thread, step);
            __syncthreads();
            take(shared + (thread + a.m) % blockDim.x);
            BARRIER
        }
    """
    missing = Bench(body.replace("BARRIER", ""), seed=seed)
    assert all("nothing orders it after" in fault for fault in missing.faults(threads=64, memory=256, n=2, m=3))
    missing.launch(threads=64, memory=256, n=1, m=3)
    missing.launch(threads=64, memory=256, n=2, m=0)
    Bench(body.replace("BARRIER", "__syncthreads();"), seed=seed).launch(threads=64, memory=256, n=3, m=3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("meeting", "orders"),
    [
        ("__syncthreads()", True),
        ("__syncthreads_and(1)", True),
        ("__syncwarp()", True),
        ("__all_sync(0xffffffff, 1)", False),
        ("__shfl_sync(0xffffffff, 1, 0)", False),
        ("multiply_tf32(d, e, 0, 0)", False),
    ],
)
def test_what_orders_the_lanes_of_a_warp(meeting, orders, seed):
    for first, then in (("put", "take"), ("take", "put"), ("put", "put")):
        second = "{}(shared + (thread ^ 1){});".format(then, ", 1u" if then == "put" else "")
        body = f"""
            float d[4] = {{}}; u32 e[4] = {{}};
            put(shared + thread, 1u);
            __syncthreads();
            {first}(shared + thread{", 1u" if first == "put" else ""});
            {meeting};
            {second}
        """
        bench = Bench(body, seed=seed)
        if orders:
            bench.launch(threads=64, memory=256)
        else:
            pattern = rf"`{then}\(.*: {then}, and nothing orders it after line `{first}\("
            assert re.search(pattern, bench.fault(threads=64, memory=256))


@pytest.mark.parametrize("seed", SEEDS)
def test_write_after_many_reads(seed):
    body = """
        if (thread == 0) put(shared, 1u);
        __syncthreads();
        for (u32 i = 0; i < 20; i++) take(shared);
        __syncwarp();
        if (thread == 5) put(shared, 2u);
    """
    Bench(body, seed=seed).launch(threads=32, memory=16)
    assert all(
        "nothing orders it after" in fault for fault in Bench(body, seed=seed).faults(threads=64, memory=16)
    )


def test_a_warp_orders_itself_alone():
    body = "put(shared + thread, 1u); __syncwarp(); take(shared + (thread ^ 32));"
    assert any("nothing orders it after" in fault for fault in Bench(body).faults(threads=64, memory=256))


def test_halves_of_a_word():
    body = "u16* halves = reinterpret_cast<u16*>(shared); put(halves + thread, u16(1)); __syncthreads(); TAKE"
    Bench(body.replace("TAKE", "take(shared + thread / 2);")).launch(memory=64)
    assert "nothing orders it after" in Bench(body.replace("TAKE", "put(shared + thread / 2, 1u);")).fault(
        memory=64
    )


def exchange_without(part, instead=""):
    assert EXCHANGE.count(part) == 1
    return EXCHANGE.replace(part, instead)


MISTAKES = {
    "no announcement is waited for": ("while (look(a.flags + thread) < step + 1) {}", ";"),
    "one block is not waited for": ("thread < gridDim.x", "thread < gridDim.x - 1"),
    "an older announcement": ("look(a.flags + thread) < step + 1", "look(a.flags + thread) < step"),
    "announced before all have sent": (
        "        __syncthreads();\n        if (thread == 0)",
        "        if (thread == 0)",
    ),
    "received before it is announced": ("        __syncthreads();\n        value = 0;", "        value = 0;"),
    "one buffer": ("step % 2 * width", "0"),
}


@pytest.mark.parametrize("seed", SEEDS[1:])  # round robin is too orderly for some
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_between_blocks(mistake, seed):
    bench = Bench(exchange_without(*MISTAKES[mistake]), source=np.zeros(320), target=640, seed=seed)
    faults = bench.faults(5, 64, n=6)
    assert all("nothing orders it after" in fault for fault in faults)


def test_a_later_announcement_of_the_same_thread():
    body = """
        if (thread) return;
        if (block == 0) { send(a.source, 1u); announce(a.flags, 1); announce(a.flags, 2); }
        else { while (look(a.flags) < 2) {} receive(reinterpret_cast<const quad*>(a.source)); }
    """
    Bench(body, source=np.zeros(4)).launch(2)


def test_what_comes_after_an_announcement():
    body = """
        if (thread) return;
        if (block == 0) { announce(a.flags, 1); send(a.source, 1u); }
        else { while (look(a.flags) < 1) {} receive(reinterpret_cast<const quad*>(a.source)); }
    """
    assert "nothing orders it after" in Bench(body, source=np.zeros(4)).fault(2)


def test_an_announcement_by_another():
    """The last announcement tells of what its thread knows, which need not be what the one before told of."""
    body = """
        if (thread == 0) { send(a.source, 1u); announce(a.flags, 1); }
        __all_sync(0xffffffff, 1);  // puts them in time, and orders nothing
        if (thread == 1) { HEARD announce(a.flags, 2); }
        __all_sync(0xffffffff, 1);
        if (thread == 2 && look(a.flags) == 2) receive(reinterpret_cast<const quad*>(a.source));
    """
    source = np.zeros(4)
    Bench(body.replace("HEARD", "look(a.flags);"), source=source).launch()
    assert "receive, and nothing orders it after line" in Bench(body.replace("HEARD", ""), source=source).fault()


def test_load_of_what_another_block_wrote():
    body = """
        if (block == 0) send(a.target + thread, thread);
        __syncthreads();
        if (block == 0 && thread == 0) announce(a.flags, 1);
        if (block == 1) while (look(a.flags) < 1) {}
        if (block == 1 || a.n) READ;
    """
    load = Bench(body.replace("READ", "load(a.target + thread)"), target=32)
    assert "load, and a first-level cache does not see line" in load.fault(2)
    load.launch(1, n=1)
    Bench(body.replace("READ", "receive(reinterpret_cast<quad*>(a.target) + thread % 8)"), target=32).launch(2)


def test_a_flag_is_no_data():
    assert "load of a flag" in Bench("if (thread == 0) { announce(a.flags, 1); load(a.flags); }").fault()
    assert "store of a flag" in Bench("if (thread == 0) { look(a.flags); store(a.flags, 1u); }").fault()
    body = "if (thread == 0) { store(a.flags, 1u); announce(a.flags, 1); }"
    assert "announce of what is accessed as data too" in Bench(body).fault()


def test_without_the_race_check():
    body = "put(shared, thread); announce(a.flags, 1); look(a.flags); send(a.target, load(a.target));"
    Bench(body, target=1, race_check=False).launch(4, 64, memory=4)


# ---------------------------------------------------------------------------------- barriers and warp operations


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "body",
    [
        "if (thread < 16) __syncwarp(); else __all_sync(0xffffffff, 1);",
        "if (thread < 16) multiply_tf32(d, e, 0, 0); else __syncwarp();",
        "if (thread < 16) multiply_tf32(d, e, 0, 0);\nelse multiply_tf32(d, e, 0, 0);",
        "if (thread < 16) multiply_tf32(d, e, 0, 0); else __syncthreads();",
        "if (thread < 16) __syncthreads();\nelse __syncthreads();",
        "if (thread < 16) __shfl_sync(0xffffffff, 1.0f, 0); else __shfl_sync(0xffffffff, 1.0, 0);",
    ],
)
def test_divergent(body, seed):
    body = "float d[4] = {}; u32 e[4] = {};" + body
    assert re.search(
        "divergent: .*, while lane .* of the warp waits at ", Bench(body, seed=seed).fault(threads=64)
    )


def test_product_without_all_lanes():
    body = "float d[4] = {}; u32 e[4] = {}; multiply_tf32(d, e, 0, 0);"
    assert "a product by a part of a warp" in Bench(body).fault(threads=48)
    assert "a product by a part of a warp" in Bench("if (thread == 32) return;" + body).fault(threads=64)
    last = "if (thread == 40) { for (int i = 0; i < 9; i++) look(a.flags); return; }"
    assert "divergent: has ended, while lane 0 of the warp waits at a product" in Bench(last + body).fault(
        threads=64
    )


def test_value_of_a_lane_that_has_ended():
    body = "if (thread == 7) return; __shfl_sync(0xffffffff, thread, 7);"
    assert "a value of a lane that has ended" in Bench(body).fault()


def test_masks_that_leave_lanes_out():
    assert "a mask that leaves lanes out" in Bench("if (thread < 16) __syncwarp(0xffff);").fault()


def test_deadlock():
    body = "if (thread < 32) __syncthreads(); else __syncthreads_and(1);"
    assert re.match(
        "no thread can go on; 32 at __syncthreads, line .*; 32 at __syncthreads_and", Bench(body).fault(threads=64)
    )


def test_a_launch_that_never_ends():
    body = "if (thread == 0) while (look(a.flags) == 0) {}\n__syncthreads();"
    fault = Bench(body, max_turns=1000).fault(2, 64)
    assert re.match("the limit of turns is reached; 126 at __syncthreads, line .*; 2 at look, line ", fault)


def test_a_loop_that_gives_nobody_a_turn():
    body = "if (thread == 0) while (load(a.flags) == 0) {}"
    assert "too many accesses to memory without a turn for others" in Bench(body, max_turns=1000).fault()
    body = "for (u32 i = 0; i < 500; i++) { load(a.flags); load(a.flags); load(a.flags); __syncthreads(); }"
    Bench(body, max_turns=1000).launch(threads=1)


def test_a_block_that_never_runs():
    body = """
        if (thread == 0) announce(a.flags + block, 1);
        if (thread < gridDim.x) {
            u32 tries = 0;
            while (look(a.flags + thread) < 1)
                if (++tries == 1000) { report(a.word, 1 + thread); break; }
        }
    """
    for seed in (0, 1):
        bench = Bench(body, seed=seed, withheld=(2, 0))
        bench.launch(4)
        assert bench.word.value[0] == 3
        np.testing.assert_array_equal(bench.flags[:4], [1, 1, 0, 1])
        bench = Bench(body, seed=seed)
        bench.launch(4)
        assert bench.word.value[0] == 0


def test_report_reaches_the_host_alone():
    assert "report of 4 bytes out of bounds" in Bench("report(a.flags, 1);").fault()
    assert "store of 4 bytes out of bounds" in Bench("store(a.word, 1u);").fault()


# ---------------------------------------------------------------------------------------------------- the host


def test_arguments_are_those_of_the_kernel():
    bench = Bench("store(a.target + thread, a.n);", target=32)
    arguments = bench.arguments(n=3)
    for wrong in (arguments[0], arguments.repeat(2), arguments.tobytes()):
        with pytest.raises(TypeError, match="shape"):
            bench.kernel.launch((1, 1), 32, wrong)
    with pytest.raises(ValueError, match="test takes 40 bytes, and the arguments have 32"):
        bench.kernel.launch((1, 1), 32, arguments.view("V40").astype("V32"))
    bench.kernel.launch((1, 1), 32, arguments)
    assert np.all(bench.target == 3)


def test_what_the_device_holds():
    bench = Bench("")
    assert bench.kernel.resident(256, 232448) == 1
    assert bench.kernel.resident(256, 232449) == 0
    assert bench.cuda.device().multiprocessors == 8
    bench.launch(9, together=False)
    with pytest.raises(ValueError, match="where 8 run at once"):
        bench.launch(9)
    with pytest.raises(ValueError, match="where 0 run at once"):
        bench.launch(1, memory=232449, together=False)
    with pytest.raises(ValueError, match="blocks of 1025 threads"):
        bench.launch(1, threads=1025)


def test_addresses():
    cuda, array = CudaOnCpu(), np.zeros((4, 4), "float32")
    assert cuda.address(StrictArray(array[1:, 2:])) == array.ctypes.data + 24
    with pytest.raises(TypeError, match="list"):
        cuda.address([1.0])


def test_products():
    cuda, a = CudaOnCpu(), np.arange(6.0).reshape(2, 3)
    out = np.empty((2, 2))
    assert cuda.matmul(a, a.T, tf32=True, out=out) is out
    assert np.array_equal(out, cuda.matmul(a, a.T, tf32=False))
    assert list(cuda.rounded) == [True, False]


def test_capture():
    bench = Bench("store(a.target + thread, load(a.target + thread) * a.n + 1);", target=32)

    def launches():
        bench.launch(n=2)
        bench.launch(n=5)

    repeat = bench.cuda.capture(launches)
    assert np.all(bench.target == 0)
    repeat()
    assert np.all(bench.target == 6)
    repeat()
    assert np.all(bench.target == (6 * 2 + 1) * 5 + 1)
    arguments = bench.arguments(n=0)
    repeat = bench.cuda.capture(lambda: bench.kernel.launch((1, 1), 32, arguments))
    arguments["n"] = 7  # too late
    repeat()
    assert np.all(bench.target == 1)
    with pytest.raises(RuntimeError, match="a capture in a capture"):
        bench.cuda.capture(lambda: bench.cuda.capture(launches))
    bench.launch(n=0)
    assert np.all(bench.target == 1)


def test_kernels_are_compiled_once_for_each_choice():
    bench = Bench("store(a.target + thread, u32(CHOICE));", target=32, options=("-DCHOICE=3",))
    assert np.all(bench.launch() == 3)
    assert bench.cuda.kernel(bench.code, "test", ("--std=c++17", "-DCHOICE=3")) is bench.kernel
    bench.kernel = bench.cuda.kernel(bench.code, "test", ("-DCHOICE=4",))
    assert np.all(bench.launch() == 4)


def test_text_that_does_not_compile():
    with pytest.raises(RuntimeError, match="nonsense"):
        Bench("nonsense;")
    with pytest.raises(ValueError, match=r"device\.cuh"):
        CudaOnCpu().kernel("extern int x;", "x", ())
