// The device functions of nplstm/engines/cuda/kernels/device.cuh for the emulator, with the same names. language.h is
// included before it, as CUDA's own names are.
//
// `line` is the line of the call, by default: messages name it.

#include "words.cuh"

// ---------------------------------------------------------------------------------------------------- numbers

inline float from_bits(u32 x) {
    float y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

inline u32 bits_of(float x) {
    u32 y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

// The NaN that a conversion on the device returns.
constexpr u32 FLOAT_NAN = 0x7fffffff;
constexpr u16 HALF_NAN = 0x7fff;

inline float widen(float16 x) {
    const u32 sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    if (exponent == 31) return from_bits(mantissa ? FLOAT_NAN : sign | 0x7f800000u);
    if (exponent == 0) return from_bits(sign | bits_of(float(mantissa) * 0x1p-24f));
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline float widen(bfloat16 x) { return from_bits(u32(x.bits) << 16); }

// x / 2**places, to the nearest, to the even one of two.
inline u32 shift_to_nearest(u32 x, u32 places) {
    const u32 kept = x >> places, left = x - (kept << places), half = 1u << (places - 1);
    return kept + (left > half || (left == half && (kept & 1)));
}

inline float16 to_float16(float x) {
    const u32 sign = bits_of(x) >> 16 & 0x8000u, size = bits_of(x) & 0x7fffffffu;
    if (size > 0x7f800000u) return {HALF_NAN};
    if (size >= 0x47800000u) return {u16(sign | 0x7c00u)};  // 2**16
    if (size < 0x33000000u) return {u16(sign)};             // 2**-25: half of the smallest
    const u32 exponent = size >> 23, mantissa = (size & 0x7fffffu) | 0x800000u;
    if (exponent < 113) return {u16(sign | shift_to_nearest(mantissa, 126 - exponent))};
    return {u16(sign | shift_to_nearest(size - (112u << 23), 13))};  // a carry ends in the exponent, as it should
}

inline bfloat16 to_bfloat16(float x) {
    if (x != x) return {HALF_NAN};
    return {u16(shift_to_nearest(bits_of(x), 16))};
}

inline u32 to_tf32(float x) {
    if (x != x) return FLOAT_NAN;
    return (bits_of(x) + 0x1000u) & ~0x1fffu;  // half away from zero; an infinity stays
}

// ---------------------------------------------------------------------------------------------------- products

namespace emulator {

struct Tf32 {
    static constexpr u32 K = 8, SIDE_BY_SIDE = 1;
    static float element(u32 word, u32) { return from_bits(word & ~0x1fffu); }  // the rest is not read
};

struct Float16 {
    static constexpr u32 K = 16, SIDE_BY_SIDE = 2;
    static float element(u32 word, u32 k) { return widen(float16{u16(word >> 16 * k)}); }
};

struct Bfloat16 {
    static constexpr u32 K = 16, SIDE_BY_SIDE = 2;
    static float element(u32 word, u32 k) { return widen(bfloat16{u16(word >> 16 * k)}); }
};

// The operands of one lane of the warp.
struct Part {
    float (&d)[4];
    const u32 (&a)[4];
    u32 b[2];
};

// The matrix product of a warp: gathers the operands of all lanes, and adds the result to theirs.
template <typename Kind>
struct Product {
    double a[16][Kind::K], b[Kind::K][8];

    void gather(u32 lane, const Part& part) {
        const u32 r = lane / 4, q = lane % 4;
        for (u32 side = 0; side < Kind::SIDE_BY_SIDE; side++) {
            const u32 k = Kind::SIDE_BY_SIDE * q + side;
            for (u32 i = 0; i < 4; i++)
                a[r + 8 * (i % 2)][k + Kind::K / 2 * (i / 2)] = Kind::element(part.a[i], side);
            for (u32 i = 0; i < 2; i++) b[k + Kind::K / 2 * i][r] = Kind::element(part.b[i], side);
        }
    }

    double element(u32 row, u32 column) const {
        double sum = 0;
        for (u32 k = 0; k < Kind::K; k++) sum += a[row][k] * b[k][column];
        return sum;
    }

    void add(u32 lane, const Part& part) const {
        const u32 r = lane / 4, q = lane % 4;
        for (u32 i = 0; i < 4; i++) part.d[i] = towards_zero(part.d[i] + element(r + 8 * (i / 2), 2 * q + i % 2));
    }

    // Rounding of sums at least as coarse as the device's.
    static float towards_zero(double x) {
        const float nearest = float(x);
        return isfinite(nearest) && fabs(double(nearest)) > fabs(x) ? nextafterf(nearest, 0) : nearest;
    }
};

template <typename Kind>
void multiply(void* const (&brought)[LANES]) {
    Product<Kind> product;
    for (u32 lane = 0; lane < LANES; lane++) product.gather(lane, *static_cast<Part*>(brought[lane]));
    for (u32 lane = 0; lane < LANES; lane++) product.add(lane, *static_cast<Part*>(brought[lane]));
}

template <typename Kind>
void multiply(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, int line) {
    Part part{d, a, {b0, b1}};
    join_warp(Collective::product, &part, multiply<Kind>, line);
}

}  // namespace emulator

inline void multiply_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, int line = __builtin_LINE()) {
    emulator::multiply<emulator::Tf32>(d, a, b0, b1, line);
}

inline void multiply_float16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, int line = __builtin_LINE()) {
    emulator::multiply<emulator::Float16>(d, a, b0, b1, line);
}

inline void multiply_bfloat16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, int line = __builtin_LINE()) {
    emulator::multiply<emulator::Bfloat16>(d, a, b0, b1, line);
}

// ---------------------------------------------------------------------------------------------------- memory

namespace emulator {

// Whether one instruction can access a T.
template <typename T>
constexpr bool is_word = sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0;

template <typename T>
T read(Access kind, const T* place, int line) {
    static_assert(is_word<T>);
    return access(kind, place, sizeof(T), line) ? *place : T();
}

template <typename T>
void write(Access kind, T* place, T value, int line) {
    static_assert(is_word<T>);
    if (access(kind, place, sizeof(T), line)) *place = value;
}

}  // namespace emulator

template <typename T>
T load(const T* place, int line = __builtin_LINE()) {
    return emulator::read(emulator::Access::load, place, line);
}

template <typename T>
void store(T* place, T value, int line = __builtin_LINE()) {
    emulator::write(emulator::Access::store, place, value, line);
}

inline unsigned char* block_memory() { return emulator::block_memory(); }

template <typename T>
T take(const T* place, int line = __builtin_LINE()) {
    return emulator::read(emulator::Access::take, place, line);
}

template <typename T>
void put(T* place, T value, int line = __builtin_LINE()) {
    emulator::write(emulator::Access::put, place, value, line);
}

// ---------------------------------------------------------------------------------------------- between blocks

template <typename T>
void send(T* place, T value, int line = __builtin_LINE()) {
    emulator::write(emulator::Access::send, place, value, line);
}

inline quad receive(const quad* place, int line = __builtin_LINE()) {
    return emulator::read(emulator::Access::receive, place, line);
}

inline void announce(u32* flag, u32 value, int line = __builtin_LINE()) {
    if (emulator::before_announce(flag, line)) *flag = value;
}

inline u32 look(const u32* flag, int line = __builtin_LINE()) {
    return emulator::before_look(flag, line) ? *flag : 0;
}

inline void report(u32* word, u32 value, int line = __builtin_LINE()) {
    if (emulator::before_report(word, line)) *word = value;
}
