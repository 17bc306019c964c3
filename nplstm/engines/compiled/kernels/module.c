// The Python module of the kernels: checks all arrays, so that no kernel reads or writes outside of them.
//
// Of Python only the limited API is used: one library serves every version from 3.11 on. Arrays come by the buffer
// protocol. The GIL is released while a kernel runs.
#if !defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "layer.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

// ------------------------------------------------------------------------------------------- instruction sets

#define DECLARE(set) extern const Kernels kernels_##set##_32, kernels_##set##_64;
DECLARE(baseline)
#ifdef HAVE_X86_SETS
DECLARE(avx2)
DECLARE(avx512)
#endif
#ifdef HAVE_NEON
DECLARE(neon)
#endif

typedef struct {
    const Kernels *of_float, *of_double;
} InstructionSet;

static InstructionSet sets[4];  // the fastest first
static int set_count;

static void add_set(const Kernels* of_float, const Kernels* of_double) {
    sets[set_count++] = (InstructionSet){of_float, of_double};
}

static void find_sets(void) {
    set_count = 0;
#ifdef HAVE_X86_SETS
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (avx2 && avx512) add_set(&kernels_avx512_32, &kernels_avx512_64);
    if (avx2) add_set(&kernels_avx2_32, &kernels_avx2_64);
#endif
#ifdef HAVE_NEON
    add_set(&kernels_neon_32, &kernels_neon_64);
#endif
    add_set(&kernels_baseline_32, &kernels_baseline_64);
}

// The instructions that this library needs and this CPU lacks; NULL if it can run.
static const char* cpu_lacks(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f")) return "AVX-512";
#endif
#if defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2")) return "AVX2";
#endif
#if defined(__AVX__)
    if (!__builtin_cpu_supports("avx")) return "AVX";
#endif
#endif
    return NULL;
}

// ------------------------------------------------------------------------------------------- arguments

// A workspace has up to 6 * rows * width elements of 8 bytes, a weight 4 * width * width: neither overflows.
enum { MAX_BUFFERS = 64, MAX_WIDTH = 1 << 24 };
static const ptrdiff_t MAX_ROWS = (ptrdiff_t)1 << 33;

// The buffers of the caller's arrays in one call, released at its end.
typedef struct {
    Py_buffer views[MAX_BUFFERS];
    int count;
    const Kernels* kernels;
    const char* problem;  // with the first argument that does not fit
} Buffers;

static void init_buffers(Buffers* buffers) {
    buffers->count = 0, buffers->kernels = NULL, buffers->problem = NULL;
}

static void release_buffers(Buffers* buffers) {
    while (buffers->count) PyBuffer_Release(&buffers->views[--buffers->count]);
}

static PyObject* failed(Buffers* buffers) {
    release_buffers(buffers);
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, buffers->problem ? buffers->problem : "arguments");
    return NULL;
}

static bool wrong(Buffers* buffers, const char* problem) {
    if (!buffers->problem) buffers->problem = problem;
    return false;
}

static bool is_aligned(const Py_buffer* view) {
    if ((uintptr_t)view->buf % (size_t)view->itemsize) return false;
    for (int axis = 0; axis < view->ndim; ++axis)
        if (view->strides[axis] % view->itemsize) return false;
    return true;
}

// The format character of the elements; 0 if they are not single numbers in this machine's byte order.
static char kind_of(const Py_buffer* view) {
    const char* format = view->format ? view->format : "B";
    const char here = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    if (format[0] == '@' || format[0] == '=' || format[0] == here) ++format;
    return format[0] && !format[1] ? format[0] : 0;
}

// Take an array of so many axes; `format` is what its elements have to be.
static const Py_buffer* take_buffer(Buffers* buffers, PyObject* object, int axes, bool writable, char format) {
    if (buffers->count == MAX_BUFFERS) return wrong(buffers, "too many arrays"), NULL;
    Py_buffer* view = &buffers->views[buffers->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)))
        return NULL;
    ++buffers->count;
    const char kind = kind_of(view);
    const bool fits = kind == format || (format == 'q' && kind == 'l' && view->itemsize == 8);
    // ctypes leaves the strides out
    if (view->ndim != axes || !fits || !view->strides || !is_aligned(view))
        return wrong(buffers, "an array of another kind"), NULL;
    return view;
}

static char format_of(const Buffers* buffers) { return buffers->kernels->bits == 32 ? 'f' : 'd'; }

// Take (rows, columns); -1 stands for any number. Elements of a row are side by side.
static bool take_matrix(Buffers* buffers, PyObject* object, bool writable, ptrdiff_t* rows, ptrdiff_t* columns,
                        Matrix* to) {
    const Py_buffer* view = take_buffer(buffers, object, 2, writable, format_of(buffers));
    if (!view) return false;
    if (*rows < 0) *rows = view->shape[0];
    if (*columns < 0) *columns = view->shape[1];
    if (*rows > MAX_ROWS || *columns > 4 * MAX_WIDTH) return wrong(buffers, "a matrix that is too large");
    if (view->shape[0] != *rows || view->shape[1] != *columns) return wrong(buffers, "a matrix of another shape");
    if (*columns > 1 && view->strides[1] != view->itemsize)
        return wrong(buffers, "elements of a row that stand apart");
    *to = (Matrix){view->buf, *rows > 1 ? view->strides[0] / view->itemsize : *columns};
    return true;
}

// Take elements without gaps, of any shape of `axes` axes.
static void* take_whole(Buffers* buffers, PyObject* object, int axes, bool writable, ptrdiff_t size) {
    const Py_buffer* view = take_buffer(buffers, object, axes, writable, format_of(buffers));
    if (!view) return NULL;
    if (view->len != size * view->itemsize) return wrong(buffers, "an array of another size"), NULL;
    ptrdiff_t stride = view->itemsize;
    for (int axis = axes - 1; axis >= 0; stride *= view->shape[axis--])
        if (view->shape[axis] > 1 && view->strides[axis] != stride)
            return wrong(buffers, "an array with gaps"), NULL;
    return view->buf;
}

static bool take_number(Buffers* buffers, PyObject* object, ptrdiff_t least_value, ptrdiff_t most_value,
                        ptrdiff_t* to) {
    *to = PyLong_AsSsize_t(object);
    if (*to == -1 && PyErr_Occurred()) return false;
    return (*to >= least_value && *to <= most_value) || wrong(buffers, "a number out of range");
}

// `count` of the fastest instruction sets there are, and the element type by an array or by its bits.
static bool take_kernels(Buffers* buffers, PyObject* which, ptrdiff_t bits) {
    ptrdiff_t k;
    if (!take_number(buffers, which, 0, set_count - 1, &k)) return false;
    if (bits != 32 && bits != 64) return wrong(buffers, "elements that are neither float32 nor float64");
    buffers->kernels = bits == 32 ? sets[k].of_float : sets[k].of_double;
    return true;
}

static bool take_kernels_for(Buffers* buffers, PyObject* which, PyObject* array) {
    Py_buffer view;
    init_buffers(buffers);
    if (PyObject_GetBuffer(array, &view, PyBUF_STRIDES | PyBUF_FORMAT)) return false;
    const char kind = kind_of(&view);
    PyBuffer_Release(&view);
    return take_kernels(buffers, which, kind == 'f' ? 32 : kind == 'd' ? 64 : 0);
}

// Steps whose offsets have been checked, once for all calls of a pass; a copy, so that they do not change.
typedef struct {
    Steps steps;
    int64_t offsets[];
} CheckedSteps;

static const char steps_name[] = "nplstm.core.packed";

static bool take_steps(Buffers* buffers, PyObject* capsule, ptrdiff_t batch, ptrdiff_t rows, Steps* to) {
    const CheckedSteps* checked = PyCapsule_GetPointer(capsule, steps_name);
    if (!checked) return false;
    *to = checked->steps;
    return (to->batch == batch && to->offsets[to->count] == rows) || wrong(buffers, "steps of another size");
}

static bool take_fields(Buffers* buffers, PyObject* tuple, ptrdiff_t count, PyObject** to) {
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) return wrong(buffers, "a tuple of another size");
    for (ptrdiff_t k = 0; k < count; ++k) to[k] = PyTuple_GetItem(tuple, k);
    return true;
}

// One or two directions, tuples whose element type is that of their array at `place`; 0: anything else.
static int take_directions(Buffers* buffers, PyObject* which, PyObject* directions, Py_ssize_t place) {
    init_buffers(buffers);
    const Py_ssize_t count = PyTuple_Check(directions) ? PyTuple_Size(directions) : 0;
    if (count != 1 && count != 2) return wrong(buffers, "neither one direction nor two");
    PyObject* first = PyTuple_GetItem(directions, 0);
    if (!PyTuple_Check(first) || PyTuple_Size(first) <= place)
        return wrong(buffers, "a direction that is no tuple");
    return take_kernels_for(buffers, which, PyTuple_GetItem(first, place)) ? (int)count : 0;
}

static bool take_threads(Buffers* buffers, PyObject* object, int* to) {
    ptrdiff_t threads;
    if (!take_number(buffers, object, 1, PY_SSIZE_T_MAX, &threads)) return false;
    *to = (int)least(threads, MAX_THREADS);
    return true;
}

static bool check_count(Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted) return true;
    PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, count);
    return false;
}

// Return None, or raise for memory.
static PyObject* none_or_no_memory(Buffers* buffers, bool done) {
    release_buffers(buffers);
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static ptrdiff_t padded(const Buffers* buffers, ptrdiff_t width) {
    return panels_of(width, buffers->kernels->lanes) * buffers->kernels->lanes;
}

// ------------------------------------------------------------------------------------------- steps

static void free_steps(PyObject* capsule) { free(PyCapsule_GetPointer(capsule, steps_name)); }

static bool check_steps(Buffers* buffers, const Steps* steps) {
    int64_t before = steps->batch;
    if (steps->offsets[0]) return wrong(buffers, "offsets that do not begin at 0");
    for (ptrdiff_t t = 0; t < steps->count; ++t) {
        const int64_t count = steps->offsets[t + 1] - steps->offsets[t];
        if (count < 0 || count > before) return wrong(buffers, "offsets that do not decrease in size");
        before = count;
    }
    return true;
}

PyDoc_STRVAR(steps_text,
             "steps(offsets, batch)\n--\n\n"
             "Return what other functions take for the steps of packed rows: `offsets` (T + 1,) of each "
             "step's rows, of `batch` sequences.");

static PyObject* py_steps(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    ptrdiff_t batch;
    if (!check_count(count, 2)) return NULL;
    init_buffers(&buffers);
    const Py_buffer* view = take_buffer(&buffers, args[0], 1, false, 'q');
    if (!view || !take_number(&buffers, args[1], 0, MAX_ROWS, &batch)) return failed(&buffers);
    if (view->shape[0] < 1 || (view->shape[0] > 1 && view->strides[0] != 8))
        return wrong(&buffers, "offsets of another kind"), failed(&buffers);
    CheckedSteps* checked = malloc(sizeof *checked + (size_t)view->len);
    if (!checked) return none_or_no_memory(&buffers, false);
    checked->steps = (Steps){checked->offsets, view->shape[0] - 1, batch};
    memcpy(checked->offsets, view->buf, (size_t)view->len);
    PyObject* capsule = check_steps(&buffers, &checked->steps) ? PyCapsule_New(checked, steps_name, free_steps)
                                                               : NULL;
    if (!capsule) {
        free(checked);
        return failed(&buffers);
    }
    release_buffers(&buffers);
    return capsule;
}

// ------------------------------------------------------------------------------------------- forward

// Options of the cell: peepholes (3, Hp) or None, and the bound of the clip or 0.
static bool take_variant(Buffers* buffers, PyObject* peephole, PyObject* clip, ptrdiff_t Hp, Variant* to) {
    if (peephole != Py_None && !(to->peephole = take_whole(buffers, peephole, 2, false, 3 * Hp))) return false;
    to->clip = PyFloat_AsDouble(clip);
    if (to->clip == -1.0 && PyErr_Occurred()) return false;
    return to->clip >= 0 || wrong(buffers, "a clip below 0");
}

static bool take_forward(Buffers* buffers, PyObject* tuple, Forward* direction, ptrdiff_t* rows,
                         ptrdiff_t* batch) {
    PyObject* field[15];
    if (!take_fields(buffers, tuple, 15, field)) return false;
    *direction = (Forward){.I = -1, .P = -1};
    if (!take_matrix(buffers, field[0], false, rows, &direction->I, &direction->x)) return false;
    if (!take_matrix(buffers, field[6], true, rows, &direction->P, &direction->out)) return false;
    if (!take_matrix(buffers, field[4], false, batch, &direction->P, &direction->h_0)) return false;
    if (!take_number(buffers, field[10], 1, MAX_WIDTH, &direction->H)) return false;
    const ptrdiff_t Hp = padded(buffers, direction->H), Pp = padded(buffers, direction->P);
    direction->weight_ih = take_whole(buffers, field[1], 1, false, 4 * Hp * direction->I);
    direction->weight_hh = take_whole(buffers, field[2], 1, false, 4 * Hp * direction->P);
    direction->bias = take_whole(buffers, field[3], 1, false, 4 * Hp);
    direction->c = take_whole(buffers, field[5], 2, true, *batch * Hp);
    direction->reverse = PyObject_IsTrue(field[7]) == 1;
    if (field[8] != Py_None) {
        direction->gates = take_whole(buffers, field[8], 2, true, *rows * 4 * Hp);
        direction->cells = take_whole(buffers, field[9], 2, true, *rows * Hp);
    }
    if (!take_variant(buffers, field[11], field[12], Hp, &direction->variant)) return false;
    if (field[13] != Py_None) {
        direction->weight_hr = take_whole(buffers, field[13], 1, false, direction->H * Pp);
        direction->projected = take_whole(buffers, field[14], 1, true, *batch * (Hp + Pp));
    } else if (direction->P != direction->H)
        return wrong(buffers, "h of another width than c, without a projection");
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(forward_text, "forward(set, directions, steps, threads)\n--\n\n"
                           "Run the directions of a layer. Each: x, weight_ih, weight_hh, bias, h_0, c, out, "
                           "reverse, gates, cells, H, "
                           "peephole, clip, weight_hr, projected.");

static PyObject* py_forward(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Forward directions[2];
    Steps steps;
    ptrdiff_t rows = -1, batch = -1;
    int threads;
    if (!check_count(count, 4)) return NULL;
    const int n = take_directions(&buffers, args[0], args[1], 0);
    if (!n) return failed(&buffers);
    for (int k = 0; k < n; ++k) {
        if (!take_forward(&buffers, PyTuple_GetItem(args[1], k), directions + k, &rows, &batch))
            return failed(&buffers);
        if (directions[k].I != directions->I || directions[k].H != directions->H ||
            directions[k].P != directions->P || !directions[k].gates != !directions->gates ||
            !directions[k].weight_hr != !directions->weight_hr)
            return wrong(&buffers, "directions of different sizes"), failed(&buffers);
    }
    if (!take_steps(&buffers, args[2], batch, rows, &steps)) return failed(&buffers);
    if (!take_threads(&buffers, args[3], &threads)) return failed(&buffers);
    bool done;
    Py_BEGIN_ALLOW_THREADS
    done = run_forward(buffers.kernels, directions, n, &steps, threads);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, done);
}

// ------------------------------------------------------------------------------------------- backward

static bool take_backward(Buffers* buffers, PyObject* tuple, Backward* direction, ptrdiff_t* rows,
                          ptrdiff_t* batch, ptrdiff_t* some_rows) {
    PyObject* field[17];
    if (!take_fields(buffers, tuple, 17, field)) return false;
    *direction = (Backward){0};
    if (!take_number(buffers, field[10], 1, MAX_WIDTH, &direction->H)) return false;
    if (!take_number(buffers, field[11], 1, MAX_WIDTH, &direction->P)) return false;
    const ptrdiff_t Hp = padded(buffers, direction->H), Pp = padded(buffers, direction->P);
    ptrdiff_t width = 4 * Hp, states = Pp;
    Matrix matrix;
    if (!take_matrix(buffers, field[5], false, rows, &width, &matrix)) return false;
    direction->gates = take_whole(buffers, field[5], 2, false, *rows * 4 * Hp);
    if (field[0] != Py_None && !take_matrix(buffers, field[0], false, rows, &direction->P, &direction->grad_out))
        return false;
    direction->weight_hh = take_whole(buffers, field[1], 1, false, 4 * Hp * Pp);
    if (!take_matrix(buffers, field[2], true, batch, &states, &matrix)) return false;
    direction->grad_h = take_whole(buffers, field[2], 2, true, *batch * Pp);
    direction->grad_c = take_whole(buffers, field[3], 2, true, *batch * Hp);
    direction->c_0 = take_whole(buffers, field[4], 2, false, *batch * Hp);
    direction->cells = take_whole(buffers, field[6], 2, false, *rows * Hp);
    if (!take_matrix(buffers, field[7], true, some_rows, &width, &matrix)) return false;
    direction->grad_a = take_whole(buffers, field[7], 2, true, *some_rows * width);
    if (!take_number(buffers, field[8], 0, PTRDIFF_MAX, &direction->first_row)) return false;
    direction->reverse = PyObject_IsTrue(field[9]) == 1;
    if (!take_variant(buffers, field[12], field[13], Hp, &direction->variant)) return false;
    if (field[14] != Py_None) {
        direction->weight_hr = take_whole(buffers, field[14], 1, false, direction->P * Hp);
        direction->grad_projected = take_whole(buffers, field[15], 2, true, *some_rows * Pp);
        direction->grad_m = take_whole(buffers, field[16], 2, true, *batch * Hp);
    } else if (direction->P != direction->H)
        return wrong(buffers, "h of another width than c, without a projection");
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(backward_text,
             "backward(set, directions, steps, first, last, threads)\n--\n\n"
             "Run some steps of the directions of a layer back. Each: grad_out, weight_hh, grad_h, grad_c, "
             "c_0, gates, cells, "
             "grad_a, first_row, reverse, H, P, peephole, clip, weight_hr, grad_projected, grad_m.");

static PyObject* py_backward(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Backward directions[2];
    Steps steps;
    ptrdiff_t rows = -1, batch = -1, first, last;
    int threads;
    if (!check_count(count, 6)) return NULL;
    const int n = take_directions(&buffers, args[0], args[1], 1);
    if (!n) return failed(&buffers);
    ptrdiff_t grad_rows[2] = {-1, -1};
    for (int k = 0; k < n; ++k) {
        PyObject* tuple = PyTuple_GetItem(args[1], k);
        if (!take_backward(&buffers, tuple, directions + k, &rows, &batch, grad_rows + k)) return failed(&buffers);
        if (directions[k].H != directions->H || directions[k].P != directions->P ||
            !directions[k].weight_hr != !directions->weight_hr)
            return wrong(&buffers, "directions of different sizes"), failed(&buffers);
    }
    if (!take_steps(&buffers, args[2], batch, rows, &steps)) return failed(&buffers);
    if (!take_number(&buffers, args[3], 0, steps.count, &first)) return failed(&buffers);
    if (!take_number(&buffers, args[4], first, steps.count, &last)) return failed(&buffers);
    if (!take_threads(&buffers, args[5], &threads)) return failed(&buffers);
    for (int k = 0; k < n && first < last; ++k) {
        ptrdiff_t from = directions[k].reverse ? steps.count - last : first,
                  to = directions[k].reverse ? steps.count - first : last;
        if (steps.offsets[from] != directions[k].first_row ||
            steps.offsets[to] - directions[k].first_row > grad_rows[k])
            return wrong(&buffers, "gradients that are too small for these steps"), failed(&buffers);
    }
    bool done;
    Py_BEGIN_ALLOW_THREADS
    done = run_backward(buffers.kernels, directions, n, &steps, first, last, threads);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, done);
}

PyDoc_STRVAR(previous_text,
             "previous(set, values, initial, steps, first, last, reverse, into)\n--\n\n"
             "Write the values of the step before, of all rows of some steps, into the first rows of `into`.");

static PyObject* py_previous(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Steps steps;
    Matrix values, initial, into;
    ptrdiff_t rows = -1, batch = -1, width = -1, some = -1, first, last;
    if (!check_count(count, 8)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[1])) return failed(&buffers);
    if (!take_matrix(&buffers, args[1], false, &rows, &width, &values)) return failed(&buffers);
    if (!take_matrix(&buffers, args[2], false, &batch, &width, &initial)) return failed(&buffers);
    if (!take_steps(&buffers, args[3], batch, rows, &steps)) return failed(&buffers);
    if (!take_number(&buffers, args[4], 0, steps.count, &first)) return failed(&buffers);
    if (!take_number(&buffers, args[5], first, steps.count, &last)) return failed(&buffers);
    const bool reverse = PyObject_IsTrue(args[6]) == 1;
    if (PyErr_Occurred() || !take_matrix(&buffers, args[7], true, &some, &width, &into)) return failed(&buffers);
    const ptrdiff_t from = reverse ? steps.count - last : first, to = reverse ? steps.count - first : last;
    if (steps.offsets[to] - steps.offsets[from] > some || (some > 1 && into.row != width))
        return wrong(&buffers, "an output that is too small for these rows"), failed(&buffers);
    if (first < last) buffers.kernels->previous(values, initial, width, reverse, &steps, first, last, into.at);
    return none_or_no_memory(&buffers, true);
}

PyDoc_STRVAR(outputs_text, "outputs(set, gates, cells, H, into)\n--\n\n"
                           "Write what the cells put out, o * tanh(c), from what a recording kept.");

static PyObject* py_outputs(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    ptrdiff_t H;
    if (!check_count(count, 5)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[1])) return failed(&buffers);
    if (!take_number(&buffers, args[3], 1, MAX_WIDTH, &H)) return failed(&buffers);
    const Py_buffer* rows = take_buffer(&buffers, args[2], 2, false, format_of(&buffers));
    if (!rows) return failed(&buffers);
    const ptrdiff_t n = rows->shape[0], Hp = padded(&buffers, H);
    if (n > MAX_ROWS) return wrong(&buffers, "too many rows"), failed(&buffers);
    const void* gates = take_whole(&buffers, args[1], 2, false, n * 4 * Hp);
    const void* cells = take_whole(&buffers, args[2], 2, false, n * Hp);
    void* into = take_whole(&buffers, args[4], 2, true, n * Hp);
    if (!gates || !cells || !into) return failed(&buffers);
    buffers.kernels->outputs(gates, cells, n, H, into);
    return none_or_no_memory(&buffers, true);
}

static bool take_sums(Buffers* buffers, PyObject* tuple, Sums* direction) {
    PyObject* field[16];
    if (!take_fields(buffers, tuple, 16, field)) return false;
    *direction = (Sums){.I = -1, .count = -1};
    if (!take_number(buffers, field[8], 1, MAX_WIDTH, &direction->H)) return false;
    if (!take_number(buffers, field[9], 1, MAX_WIDTH, &direction->P)) return false;
    if (direction->P > direction->H) return wrong(buffers, "h wider than c");
    if (!take_matrix(buffers, field[1], false, &direction->count, &direction->I, &direction->x)) return false;
    const ptrdiff_t Hp = padded(buffers, direction->H), G = 4 * Hp, Ip = padded(buffers, direction->I),
                    Pp = padded(buffers, direction->P);
    direction->grad_a = take_whole(buffers, field[0], 2, false, direction->count * G);
    direction->before = take_whole(buffers, field[2], 2, false, direction->count * direction->P);
    direction->grad_weight_ih = take_whole(buffers, field[3], 2, true, G * Ip);
    direction->grad_weight_hh = take_whole(buffers, field[4], 2, true, G * Pp);
    direction->grad_bias = take_whole(buffers, field[5], 1, true, G);
    direction->weight_ih = take_whole(buffers, field[6], 1, false, G * Ip);
    direction->grad_x = take_whole(buffers, field[7], 2, true, direction->count * Ip);
    if (field[12] != Py_None) {
        direction->cells = take_whole(buffers, field[10], 2, false, direction->count * Hp);
        direction->cells_before = take_whole(buffers, field[11], 2, false, direction->count * Hp);
        direction->grad_peephole = take_whole(buffers, field[12], 2, true, 3 * Hp);
    }
    if (field[15] != Py_None) {
        direction->grad_projected = take_whole(buffers, field[13], 2, false, direction->count * Pp);
        direction->m = take_whole(buffers, field[14], 2, false, direction->count * Hp);
        direction->grad_weight_hr = take_whole(buffers, field[15], 2, true, Pp * Hp);
    }
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(sums_text, "sums(set, directions, threads)\n--\n\n"
                        "Add what some rows contribute to the gradients of the parameters, and write that of the "
                        "input. Each direction: grad_a, x, "
                        "before, grad_weight_ih, grad_weight_hh, grad_bias, weight_ih, grad_x, H, P, cells, "
                        "cells_before, grad_peephole, "
                        "grad_projected, m, grad_weight_hr.");

static PyObject* py_sums(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Sums directions[2];
    int threads;
    if (!check_count(count, 3)) return NULL;
    const int n = take_directions(&buffers, args[0], args[1], 0);
    if (!n) return failed(&buffers);
    for (int k = 0; k < n; ++k) {
        if (!take_sums(&buffers, PyTuple_GetItem(args[1], k), directions + k)) return failed(&buffers);
        if (directions[k].I != directions->I || directions[k].H != directions->H ||
            directions[k].P != directions->P)
            return wrong(&buffers, "directions of different sizes"), failed(&buffers);
    }
    if (!take_threads(&buffers, args[2], &threads)) return failed(&buffers);
    bool done;
    Py_BEGIN_ALLOW_THREADS
    done = run_sums(buffers.kernels, directions, n, threads);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, done);
}

// ------------------------------------------------------------------------------------------- a whole stack

static bool take_stack(Buffers* buffers, PyObject* const* args, Stack* stack, const void** weights,
                       bool* reverse) {
    const Py_buffer* x = take_buffer(buffers, args[1], 3, false, format_of(buffers));
    if (!x) return false;
    stack->T = x->shape[0], stack->B = x->shape[1], stack->I = x->shape[2];
    if (stack->T < 1 || stack->T > MAX_ROWS / most(1, stack->B) || stack->I > MAX_WIDTH)
        return wrong(buffers, "no steps, or an input that is too large");
    stack->x = take_whole(buffers, args[1], 3, false, stack->T * stack->B * stack->I);
    const Py_buffer* h_n = take_buffer(buffers, args[5], 4, true, format_of(buffers));
    if (!h_n || h_n->shape[2] != stack->B) return wrong(buffers, "h_n of another shape");
    stack->layers = h_n->shape[0], stack->directions = h_n->shape[1], stack->H = h_n->shape[3];
    if (stack->H < 1 || stack->H > MAX_WIDTH) return wrong(buffers, "no cells, or too many");
    if (stack->directions != 1 && stack->directions != 2) return wrong(buffers, "neither one direction nor two");
    if (!stack->layers) return wrong(buffers, "no layers");
    if (stack->layers > MAX_BUFFERS / 3 / stack->directions) return wrong(buffers, "too many layers");
    const ptrdiff_t states = stack->layers * stack->directions, Hp = padded(buffers, stack->H);
    if (!PyTuple_Check(args[7]) || !PyTuple_Check(args[8])) return wrong(buffers, "weights that are no tuple");
    if (PyTuple_Size(args[8]) != stack->directions) return wrong(buffers, "another number of directions");
    if (PyTuple_Size(args[7]) != 3 * states) return wrong(buffers, "weights of another number of layers");
    const ptrdiff_t size = states * stack->B * stack->H, D = stack->directions;
    stack->h_0 = args[2] == Py_None ? NULL : take_whole(buffers, args[2], 4, false, size);
    stack->c_0 = args[3] == Py_None ? NULL : take_whole(buffers, args[3], 4, false, size);
    stack->out = take_whole(buffers, args[4], 3, true, stack->T * stack->B * D * stack->H);
    stack->h_n = take_whole(buffers, args[5], 4, true, size);
    stack->c_n = take_whole(buffers, args[6], 4, true, size);
    for (ptrdiff_t k = 0; k < states; ++k) {
        const ptrdiff_t width = k < D ? stack->I : D * stack->H,
                        sizes[] = {4 * Hp * width, 4 * Hp * stack->H, 4 * Hp};
        for (int part = 0; part < 3; ++part)
            weights[3 * k + part] = take_whole(buffers, PyTuple_GetItem(args[7], 3 * k + part), 1, false,
                                               sizes[part]);
    }
    for (ptrdiff_t d = 0; d < D; ++d) reverse[d] = PyObject_IsTrue(PyTuple_GetItem(args[8], d)) == 1;
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(stack_text, "stack(set, x, h_0, c_0, out, h_n, c_n, weights, reverse, threads)\n--\n\n"
                         "Run a stack of layers over sequences of one length, without recording. x (T, B, I), out "
                         "(T, B, D * H), states (L, D, B, H). `weights` has W_ih, W_hh and b of each layer and "
                         "direction, packed; `reverse` whether each direction runs back.");

static PyObject* py_stack(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    const void* weights[MAX_BUFFERS];
    bool reverse[2];
    Stack stack = {.weights = weights, .reverse = reverse};
    int threads;
    if (!check_count(count, 10)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[1])) return failed(&buffers);
    if (!take_stack(&buffers, args, &stack, weights, reverse)) return failed(&buffers);
    if (!take_threads(&buffers, args[9], &threads)) return failed(&buffers);
    bool done;
    Py_BEGIN_ALLOW_THREADS
    done = run_stack(buffers.kernels, &stack, threads);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, done);
}

// ------------------------------------------------------------------------------------------- streams

// A step of a stream, which runs many times: its arrays are held for as long as it lives.
typedef struct {
    Buffers buffers;
    Step step;
    int64_t* sizes;   // a copy: what was checked does not change
    void* states[2];  // h before and after a step, alternately
    int turn;
    int threads;
    ptrdiff_t work;
    void* out;  // (B, H) of the last layer
} StreamStep;

static const char stream_step_name[] = "nplstm.step";

static void free_stream_step(PyObject* capsule) {
    StreamStep* stream_step = PyCapsule_GetPointer(capsule, stream_step_name);
    if (!stream_step) return;
    release_buffers(&stream_step->buffers);
    free(stream_step->sizes);
    free(stream_step);
}

static bool take_step(StreamStep* stream_step, PyObject* const* args) {
    Buffers* buffers = &stream_step->buffers;
    Step* step = &stream_step->step;
    const Py_buffer* sizes = take_buffer(buffers, args[2], 1, false, 'q');
    if (!sizes) return false;
    if (sizes->shape[0] < 3 || sizes->shape[0] % 2 == 0 || sizes->strides[0] != 8)
        return wrong(buffers, "sizes of no layer");
    stream_step->sizes = malloc((size_t)sizes->len);
    if (!stream_step->sizes) return PyErr_NoMemory(), false;
    memcpy(stream_step->sizes, sizes->buf, (size_t)sizes->len);
    step->sizes = stream_step->sizes, step->layers = sizes->shape[0] / 2, step->batch = -1;
    for (ptrdiff_t k = 0; k <= 2 * step->layers; ++k)
        if (step->sizes[k] < 1 || step->sizes[k] > MAX_WIDTH) return wrong(buffers, "a size out of range");
    ptrdiff_t width = step->sizes[0], weights = 0, states = 0, cells = 0, widest = 0, below = width, last = 0;
    Matrix x;
    if (!take_matrix(buffers, args[1], false, &step->batch, &width, &x)) return false;
    for (ptrdiff_t k = 0; k < step->layers; ++k) {
        const ptrdiff_t H = step->sizes[2 * k + 1], P = step->sizes[2 * k + 2], Hp = padded(buffers, H);
        if (P > H) return wrong(buffers, "h wider than c");
        weights += 4 * Hp * (below + P) + (P < H ? H * padded(buffers, P) : 0);
        states += P, cells += Hp, widest = most(widest, Hp), below = last = P;
        if (weights > PTRDIFF_MAX / 64) return wrong(buffers, "too many layers");
    }
    const ptrdiff_t B = step->batch;
    if (B > MAX_ROWS / step->layers) return wrong(buffers, "too many sequences");
    step->peephole = PyObject_IsTrue(args[11]) == 1;
    step->clip = PyFloat_AsDouble(args[12]);
    if (step->clip == -1.0 && PyErr_Occurred()) return false;
    step->x = take_whole(buffers, args[1], 2, false, B * width);
    step->weights = take_whole(buffers, args[3], 1, false, weights);
    step->biases = take_whole(buffers, args[4], 1, false, (step->peephole ? 7 : 4) * cells);
    stream_step->states[0] = take_whole(buffers, args[5], 1, true, B * states);
    stream_step->states[1] = take_whole(buffers, args[6], 1, true, B * states);
    step->c = take_whole(buffers, args[7], 1, true, B * cells);
    step->gates = take_whole(buffers, args[8], 1, true, B * 6 * widest);
    stream_step->out = take_whole(buffers, args[9], 2, true, B * last);
    stream_step->work = weights * B;
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(new_step_text,
             "new_step(set, x, sizes, weights, biases, h, other_h, c, gates, out, threads, peephole, clip)\n--\n\n"
             "Return what `step` takes: one step through a stack of layers, in these arrays.");

static PyObject* py_new_step(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    if (!check_count(count, 13)) return NULL;
    StreamStep* stream_step = calloc(1, sizeof *stream_step);
    if (!stream_step) return PyErr_NoMemory();
    bool fits = take_kernels_for(&stream_step->buffers, args[0], args[1]) && take_step(stream_step, args) &&
                take_threads(&stream_step->buffers, args[10], &stream_step->threads);
    PyObject* capsule = fits ? PyCapsule_New(stream_step, stream_step_name, free_stream_step) : NULL;
    if (!capsule) {
        failed(&stream_step->buffers);
        free(stream_step->sizes);
        free(stream_step);
        return NULL;
    }
    return capsule;
}

PyDoc_STRVAR(step_text, "step(step)\n--\n\n"
                        "Run one step; return which of the two arrays has h now.");

static PyObject* py_step(PyObject* module, PyObject* capsule) {
    (void)module;
    StreamStep* stream_step = PyCapsule_GetPointer(capsule, stream_step_name);
    if (!stream_step) return NULL;
    Step* step = &stream_step->step;
    step->h_before = stream_step->states[stream_step->turn], step->h = stream_step->states[!stream_step->turn];
    Py_BEGIN_ALLOW_THREADS
    run_step(stream_step->buffers.kernels, step, stream_step->work, stream_step->threads);
    const ptrdiff_t row = step->batch * stream_step->buffers.kernels->bits / 8;
    ptrdiff_t before = 0;
    for (ptrdiff_t k = 1; k < step->layers; ++k) before += step->sizes[2 * k] * row;
    memcpy(stream_step->out, (char*)step->h + before, (size_t)(step->sizes[2 * step->layers] * row));
    Py_END_ALLOW_THREADS
    stream_step->turn = !stream_step->turn;
    return PyLong_FromLong(stream_step->turn);
}

// ------------------------------------------------------------------------------------------- packing and information

PyDoc_STRVAR(pack_text, "pack(set, weight, packed, how)\n--\n\n"
                        "Write a weight in the order in which the kernels read it: (4H, K) on the way forward "
                        "(how = 0) or back (1), or any "
                        "(K, width) by its columns (2).");

static PyObject* py_pack(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Matrix weight;
    ptrdiff_t rows = -1, columns = -1, how;
    if (!check_count(count, 4)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[1])) return failed(&buffers);
    if (!take_matrix(&buffers, args[1], false, &rows, &columns, &weight)) return failed(&buffers);
    if (!take_number(&buffers, args[3], 0, 2, &how)) return failed(&buffers);
    if (columns > MAX_WIDTH) return wrong(&buffers, "a weight that is too large"), failed(&buffers);
    if (how < 2 && rows % 4) return wrong(&buffers, "rows that are not those of four gates"), failed(&buffers);
    const ptrdiff_t H = rows / 4, Hp = padded(&buffers, H), width = padded(&buffers, columns);
    const ptrdiff_t size = how == 0 ? 4 * Hp * columns : how == 1 ? 4 * Hp * width : rows * width;
    void* packed = take_whole(&buffers, args[2], 1, true, size);
    if (!packed) return failed(&buffers);
    Py_BEGIN_ALLOW_THREADS
    if (how == 0) buffers.kernels->pack_forward(weight, H, columns, packed);
    if (how == 1) buffers.kernels->pack_backward(weight, H, columns, packed);
    if (how == 2) buffers.kernels->pack_columns(weight, rows, columns, packed);
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, true);
}

PyDoc_STRVAR(unpack_text, "unpack(set, values, into, H)\n--\n\n"
                          "Write the gradients of four gates, rows by panels of cells, in torch's order: "
                          "(4Hp, at least K) into (4H, K).");

static PyObject* py_unpack(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Matrix values, into;
    ptrdiff_t rows = -1, columns = -1, own_rows = -1, own_columns = -1, H;
    if (!check_count(count, 4)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[1])) return failed(&buffers);
    if (!take_matrix(&buffers, args[1], false, &rows, &columns, &values)) return failed(&buffers);
    if (!take_matrix(&buffers, args[2], true, &own_rows, &own_columns, &into)) return failed(&buffers);
    if (!take_number(&buffers, args[3], 1, MAX_WIDTH, &H)) return failed(&buffers);
    if (rows != 4 * padded(&buffers, H) || own_rows != 4 * H || own_columns > columns)
        return wrong(&buffers, "gradients of another size"), failed(&buffers);
    const ptrdiff_t panel = buffers.kernels->lanes, bytes = buffers.kernels->bits / 8;
    Py_BEGIN_ALLOW_THREADS
    for (ptrdiff_t gate = 0; gate < 4; ++gate)
        for (ptrdiff_t cell = 0; cell < H; ++cell) {
            const ptrdiff_t row = (cell / panel * 4 + gate) * panel + cell % panel;
            memcpy((char*)into.at + (gate * H + cell) * into.row * bytes,
                   (const char*)values.at + row * values.row * bytes, (size_t)(own_columns * bytes));
        }
    Py_END_ALLOW_THREADS
    return none_or_no_memory(&buffers, true);
}

PyDoc_STRVAR(functions_text, "functions(set, which, values, into)\n--\n\n"
                             "Write sigmoid (which = False) or tanh of all values, as the kernels compute them: "
                             "for tests.");

static PyObject* py_functions(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    if (!check_count(count, 4)) return NULL;
    if (!take_kernels_for(&buffers, args[0], args[2])) return failed(&buffers);
    const Py_buffer* values = take_buffer(&buffers, args[2], 1, false, format_of(&buffers));
    if (!values) return failed(&buffers);
    const ptrdiff_t size = values->shape[0];
    const void* from = take_whole(&buffers, args[2], 1, false, size);
    void* into = take_whole(&buffers, args[3], 1, true, size);
    if (!from || !into) return failed(&buffers);
    const bool which = PyObject_IsTrue(args[1]) == 1;
    if (PyErr_Occurred()) return failed(&buffers);
    buffers.kernels->functions(which, from, into, size);
    return none_or_no_memory(&buffers, true);
}

PyDoc_STRVAR(sets_text, "sets()\n--\n\n"
                        "Return the instruction sets that this library has and this CPU can run, the fastest "
                        "first: name, and elements of a "
                        "vector of float32.");

static PyObject* py_sets(PyObject* module, PyObject* unused) {
    (void)module, (void)unused;
    PyObject* found = PyTuple_New(set_count);
    for (int k = 0; found && k < set_count; ++k) {
        PyObject* one = Py_BuildValue("sn", sets[k].of_float->name, (Py_ssize_t)sets[k].of_float->lanes);
        if (!one || PyTuple_SetItem(found, k, one)) Py_CLEAR(found);
    }
    return found;
}

PyDoc_STRVAR(pool_text, "pool_size()\n--\n\nReturn the number of worker threads.");

static PyObject* py_pool_size(PyObject* module, PyObject* unused) {
    (void)module, (void)unused;
    return PyLong_FromLong(pool_size());
}

#define FAST(name, text) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, text}

static PyMethodDef methods[] = {
    FAST(steps, steps_text),
    FAST(forward, forward_text),
    FAST(backward, backward_text),
    FAST(previous, previous_text),
    FAST(outputs, outputs_text),
    FAST(sums, sums_text),
    FAST(stack, stack_text),
    FAST(new_step, new_step_text),
    {"step", py_step, METH_O, step_text},
    FAST(pack, pack_text),
    FAST(unpack, unpack_text),
    FAST(functions, functions_text),
    {"sets", py_sets, METH_NOARGS, sets_text},
    {"pool_size", py_pool_size, METH_NOARGS, pool_text},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject* module) {
    (void)module;
    const char* lacks = cpu_lacks();
    if (lacks) {
        PyErr_Format(PyExc_ImportError, "the library was built for CPUs with %s, which this one lacks", lacks);
        return -1;
    }
    find_sets();
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void*)prepare},
#if defined(Py_mod_gil) && defined(Py_GIL_DISABLED)
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_kernels",
    .m_doc = "The kernels of the compiled engine; see layer.h and kernels.h.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__kernels(void);

PyMODINIT_FUNC PyInit__kernels(void) { return PyModuleDef_Init(&definition); }
