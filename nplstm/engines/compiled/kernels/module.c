// The Python module of the kernels: checks all arrays, so that no kernel reads or writes outside of them.
//
// Of Python only the limited API is used: one library serves every version from 3.11 on. Arrays come by the buffer
// protocol. The GIL is released while a kernel runs.
#if !defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "pool.h"
#include "stack.h"

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
enum { MAX_BUFFERS = 128, MAX_WIDTH = 1 << 24 };
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

// Take an array of so many axes, -1: of any number; `format` is what its elements have to be.
static const Py_buffer* take_buffer(Buffers* buffers, PyObject* object, int axes, bool writable, char format) {
    if (buffers->problem || PyErr_Occurred()) return NULL;
    if (buffers->count == MAX_BUFFERS) return wrong(buffers, "too many arrays"), NULL;
    Py_buffer* view = &buffers->views[buffers->count];
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)))
        return NULL;
    ++buffers->count;
    const char kind = kind_of(view);
    const bool fits = kind == format || (format == 'q' && kind == 'l' && view->itemsize == 8);
    // ctypes leaves the strides out
    if ((axes >= 0 && view->ndim != axes) || !fits || !view->strides || !is_aligned(view))
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

// Take elements without gaps, of any shape of `axes` axes; -1 stands for any number of axes.
static void* take_whole(Buffers* buffers, PyObject* object, int axes, bool writable, ptrdiff_t size) {
    const Py_buffer* view = take_buffer(buffers, object, axes, writable, format_of(buffers));
    if (!view) return NULL;
    if (view->len != size * view->itemsize) return wrong(buffers, "an array of another size"), NULL;
    ptrdiff_t stride = view->itemsize;
    for (int axis = view->ndim - 1; axis >= 0; stride *= view->shape[axis--])
        if (view->shape[axis] > 1 && view->strides[axis] != stride)
            return wrong(buffers, "an array with gaps"), NULL;
    return view->buf;
}

static void* take_numbers(Buffers* buffers, PyObject* object, bool writable, ptrdiff_t size) {
    return take_whole(buffers, object, -1, writable, size);
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

static bool take_steps(Buffers* buffers, PyObject* capsule, ptrdiff_t rows, Steps* to) {
    const CheckedSteps* checked = PyCapsule_GetPointer(capsule, steps_name);
    if (!checked) return false;
    *to = checked->steps;
    return to->offsets[to->count] == rows || wrong(buffers, "steps of another size");
}

static bool take_fields(Buffers* buffers, PyObject* tuple, ptrdiff_t count, PyObject** to) {
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) return wrong(buffers, "a tuple of another size");
    for (ptrdiff_t k = 0; k < count; ++k) to[k] = PyTuple_GetItem(tuple, k);
    return true;
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

// Return None, or raise for memory unless there is an error already.
static PyObject* none_or_no_memory(Buffers* buffers, bool done) {
    release_buffers(buffers);
    if (!done) return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    Py_RETURN_NONE;
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

// ------------------------------------------------------------------------------------------- layers

// Packed parameters that have been checked, once for all calls; their arrays are held for as long as it lives.
typedef struct {
    Buffers buffers;
    Stack stack;
    bool back;  // packed for the way back
    Parameters parameters[];
} CheckedLayers;

static const char layers_name[] = "nplstm.layers";

static void free_layers(PyObject* capsule) {
    CheckedLayers* layers = PyCapsule_GetPointer(capsule, layers_name);
    if (!layers) return;
    release_buffers(&layers->buffers);
    free(layers);
}

static bool take_parameters(CheckedLayers* layers, PyObject* tuple, ptrdiff_t I, Parameters* to) {
    Buffers* buffers = &layers->buffers;
    PyObject* field[5];
    if (!take_fields(buffers, tuple, 5, field)) return false;
    const Stack* stack = &layers->stack;
    const ptrdiff_t H = stack->H, P = stack->P, Hp = padded_width(buffers->kernels, H),
                    Pp = padded_width(buffers->kernels, P);
    const bool back = layers->back;
    to->weight_ih = take_whole(buffers, field[0], 1, false,
                               4 * Hp * (back ? padded_width(buffers->kernels, I) : I));
    to->weight_hh = take_whole(buffers, field[1], 1, false, 4 * Hp * (back ? Pp : P));
    if (!back) to->bias = take_whole(buffers, field[2], 1, false, 4 * Hp);
    if (field[3] != Py_None) to->peephole = take_whole(buffers, field[3], 2, false, 3 * Hp);
    if (field[4] != Py_None) to->weight_hr = take_whole(buffers, field[4], 1, false, back ? P * Hp : H * Pp);
    if (buffers->problem || PyErr_Occurred()) return false;
    const Parameters* first = stack->parameters;
    if (!to->peephole != !first->peephole || !to->weight_hr != !first->weight_hr)
        return wrong(buffers, "layers of different cells");
    return (to->weight_hr ? P <= H : P == H) || wrong(buffers, "h of another width than c");
}

static bool take_layers(CheckedLayers* layers, PyObject* const* args, ptrdiff_t count) {
    Buffers* buffers = &layers->buffers;
    Stack* stack = &layers->stack;
    if (!take_number(buffers, args[2], 1, 2, &stack->directions)) return false;
    if (!take_number(buffers, args[3], 0, MAX_WIDTH, &stack->I)) return false;
    if (!take_number(buffers, args[4], 1, MAX_WIDTH, &stack->H)) return false;
    if (!take_number(buffers, args[5], 1, MAX_WIDTH, &stack->P)) return false;
    if (count % stack->directions) return wrong(buffers, "weights of another number of layers");
    stack->layers = count / stack->directions, stack->parameters = layers->parameters;
    stack->clip = PyFloat_AsDouble(args[6]);
    if (stack->clip == -1.0 && PyErr_Occurred()) return false;
    if (!(stack->clip >= 0)) return wrong(buffers, "a clip below 0");
    layers->back = PyObject_IsTrue(args[7]) == 1;
    if (PyErr_Occurred()) return false;
    for (ptrdiff_t k = 0; k < count; ++k) {
        const ptrdiff_t width = k < stack->directions ? stack->I : stack->directions * stack->P;
        if (!take_parameters(layers, PyTuple_GetItem(args[1], k), width, layers->parameters + k)) return false;
    }
    return true;
}

PyDoc_STRVAR(
    layers_text,
    "layers(set, weights, directions, I, H, P, clip, back)\n--\n\n"
    "Return what `forward` takes for the parameters of a stack of layers, or with `back` what `backward` "
    "takes. `weights` has a tuple for each layer and direction: W_ih, W_hh, b, peepholes and W_hr, packed.");

static PyObject* py_layers(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    if (!check_count(count, 8)) return NULL;
    init_buffers(&buffers);
    const Py_ssize_t n = PyTuple_Check(args[1]) ? PyTuple_Size(args[1]) : 0;
    if (n < 1) return wrong(&buffers, "no layers"), failed(&buffers);
    if (n > MAX_BUFFERS / 5) return wrong(&buffers, "too many layers"), failed(&buffers);
    CheckedLayers* layers = calloc(1, sizeof *layers + (size_t)n * sizeof(Parameters));
    if (!layers) return PyErr_NoMemory();
    PyObject* first = PyTuple_GetItem(args[1], 0);
    bool fits = PyTuple_Check(first) && PyTuple_Size(first) == 5
                    ? take_kernels_for(&layers->buffers, args[0], PyTuple_GetItem(first, 0))
                    : wrong(&layers->buffers, "a direction that is no tuple");
    fits = fits && take_layers(layers, args, n);
    PyObject* capsule = fits ? PyCapsule_New(layers, layers_name, free_layers) : NULL;
    if (!capsule) {
        failed(&layers->buffers);
        free(layers);
    }
    return capsule;
}

// ------------------------------------------------------------------------------------------- forward and backward

// Take what both passes have: x, h_0, c_0, out, reverse, steps and what is kept. `layers` is held by its caller.
static bool take_pass(Buffers* buffers, const CheckedLayers* layers, PyObject* const* args, bool forward,
                      Pass* pass) {
    const Stack* stack = &layers->stack;
    const ptrdiff_t D = stack->directions;
    ptrdiff_t rows = -1, I = stack->I, P = stack->P;
    PyObject *x[2], *out[2], *reverse[2];
    buffers->kernels = layers->buffers.kernels;
    *pass = (Pass){0};
    if (!take_fields(buffers, args[0], D, x) || !take_fields(buffers, args[3], D, out)) return false;
    if (!take_fields(buffers, args[4], D, reverse)) return false;
    for (ptrdiff_t d = 0; d < D; ++d) {
        if (!take_matrix(buffers, x[d], false, &rows, &I, pass->x + d)) return false;
        if (!take_matrix(buffers, out[d], forward, &rows, &P, pass->out + d)) return false;
        pass->reverse[d] = PyObject_IsTrue(reverse[d]) == 1;
    }
    if (PyErr_Occurred() || !take_steps(buffers, args[5], rows, &pass->steps)) return false;
    const double widest = (double)(4 * MAX_BUFFERS) *
                          (double)most(I, 2 * padded_width(buffers->kernels, stack->H) + 16);
    if ((double)most(rows, pass->steps.batch) * widest > (double)((ptrdiff_t)1 << 58))
        return wrong(buffers, "arrays that are too large");
    const ptrdiff_t states = stack->layers * D * pass->steps.batch;
    pass->h_0 = take_numbers(buffers, args[1], false, states * P);
    pass->c_0 = take_numbers(buffers, args[2], false, states * stack->H);
    if (args[6] != Py_None)
        pass->kept = take_numbers(buffers, args[6], forward, kept_size(buffers->kernels, stack, rows));
    return !buffers->problem && !PyErr_Occurred();
}

// A pass may take minutes: now and then Python's signal handlers run, and may raise KeyboardInterrupt.
enum { SIGNALS_NS = 50 * 1000 * 1000 };

typedef struct {
    PyThreadState* state;  // while Python's lock is released
    int64_t asked_ns;
} Signals;

static bool no_signal_raised(void* data) {
    Signals* signals = data;
    const int64_t now = now_ns();
    if (now - signals->asked_ns < SIGNALS_NS) return true;
    signals->asked_ns = now;
    PyEval_RestoreThread(signals->state);
    const bool goes_on = !PyErr_CheckSignals();
    signals->state = PyEval_SaveThread();
    return goes_on;
}

static void begin_without_gil(Pass* pass, Signals* signals) {
    pass->goes_on = no_signal_raised, pass->asked = signals;
    *signals = (Signals){PyEval_SaveThread(), now_ns()};
}

static const CheckedLayers* get_layers(Buffers* buffers, PyObject* capsule, bool back) {
    init_buffers(buffers);
    const CheckedLayers* layers = PyCapsule_GetPointer(capsule, layers_name);
    if (layers && layers->back != back) return wrong(buffers, "weights packed for the other way"), NULL;
    return layers;
}

PyDoc_STRVAR(
    forward_text,
    "forward(layers, x, h_0, c_0, out, reverse, steps, kept, h_n, c_n, threads)\n--\n\n"
    "Run a stack of layers. For each direction, in tuples, x (N, I) and out (N, P) of the first and the last "
    "layer; states (L, D, B, P) and (L, D, B, H); `kept`, which may be None, receives what `backward` needs: "
    "see kept_size in stack.h.");

static PyObject* py_forward(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Pass pass;
    int threads;
    if (!check_count(count, 11)) return NULL;
    const CheckedLayers* layers = get_layers(&buffers, args[0], false);
    if (!layers || !take_pass(&buffers, layers, args + 1, true, &pass)) return failed(&buffers);
    const Stack* stack = &layers->stack;
    const ptrdiff_t states = stack->layers * stack->directions * pass.steps.batch;
    void* h_n = take_numbers(&buffers, args[8], true, states * stack->P);
    void* c_n = take_numbers(&buffers, args[9], true, states * stack->H);
    if (!h_n || !c_n || !take_threads(&buffers, args[10], &threads)) return failed(&buffers);
    Signals signals;
    begin_without_gil(&pass, &signals);
    const bool done = stack_forward(buffers.kernels, stack, &pass, h_n, c_n, threads);
    PyEval_RestoreThread(signals.state);
    return none_or_no_memory(&buffers, done);
}

// Take the tuple of a layer and direction: arrays, or None where there is no such parameter.
static bool take_own_gradients(Buffers* buffers, const Stack* stack, PyObject* tuple, ptrdiff_t k, void** to) {
    const ptrdiff_t H = stack->H, P = stack->P, width = k < stack->directions ? stack->I : stack->directions * P;
    const Parameters* parameters = stack->parameters + k;
    const ptrdiff_t sizes[GRADIENTS] = {4 * H * width, 4 * H * P, 4 * H, 4 * H, 3 * H, P * H};
    const bool needed[GRADIENTS] = {true, true, false, false, parameters->peephole, parameters->weight_hr};
    PyObject* field[GRADIENTS];
    if (!take_fields(buffers, tuple, GRADIENTS, field)) return false;
    for (int part = 0; part < GRADIENTS; ++part) {
        if (field[part] != Py_None)
            to[part] = take_numbers(buffers, field[part], true, sizes[part]);
        else if (needed[part])
            return wrong(buffers, "no array for a gradient");
    }
    return !buffers->problem && !PyErr_Occurred();
}

static bool take_gradients(Buffers* buffers, const Stack* stack, const Pass* pass, PyObject* const* args,
                           PassGradients* to, void** grads) {
    const ptrdiff_t D = stack->directions, Ip = padded_width(buffers->kernels, stack->I);
    ptrdiff_t rows = pass->steps.offsets[pass->steps.count], P = stack->P;
    PyObject *grad_out[2], *grad_x[2];
    *to = (PassGradients){0};
    if (args[0] != Py_None && !take_fields(buffers, args[0], D, grad_out)) return false;
    if (!take_fields(buffers, args[3], D, grad_x)) return false;
    for (ptrdiff_t d = 0; d < D; ++d) {
        if (args[0] != Py_None && !take_matrix(buffers, grad_out[d], false, &rows, &P, to->grad_out + d))
            return false;
        to->grad_x[d] = take_numbers(buffers, grad_x[d], true, rows * Ip);
    }
    const ptrdiff_t states = stack->layers * D * pass->steps.batch;
    to->grad_h = take_numbers(buffers, args[1], true, states * P);
    to->grad_c = take_numbers(buffers, args[2], true, states * stack->H);
    to->grads = grads;
    const ptrdiff_t count = stack->layers * D;
    if (!PyTuple_Check(args[4]) || PyTuple_Size(args[4]) != count)
        return wrong(buffers, "gradients of another number of layers");
    for (ptrdiff_t k = 0; k < count; ++k)
        if (!take_own_gradients(buffers, stack, PyTuple_GetItem(args[4], k), k, grads + k * GRADIENTS))
            return false;
    return !buffers->problem && !PyErr_Occurred();
}

PyDoc_STRVAR(
    backward_text,
    "backward(layers, x, h_0, c_0, out, reverse, steps, kept, grad_out, grad_h, grad_c, grad_x, grads, "
    "threads)\n--\n\n"
    "Run a stack of layers back. The first arguments are those of `forward`; `grad_out`, which may be None, "
    "like `out`; `grad_h` and `grad_c`, of the final states, are overwritten with those of the initial ones; "
    "`grad_x` receives (N, Ip) of each direction, `grads`, a tuple for each layer and direction, the gradients of "
    "the "
    "parameters: W_ih, W_hh, b_ih, b_hh, peepholes and W_hr.");

static PyObject* py_backward(PyObject* module, PyObject* const* args, Py_ssize_t count) {
    (void)module;
    Buffers buffers;
    Pass pass;
    PassGradients gradients;
    void* grads[MAX_BUFFERS / 5 * GRADIENTS] = {0};
    int threads;
    if (!check_count(count, 14)) return NULL;
    const CheckedLayers* layers = get_layers(&buffers, args[0], true);
    if (!layers || !take_pass(&buffers, layers, args + 1, false, &pass)) return failed(&buffers);
    if (!pass.kept) return wrong(&buffers, "nothing that a recording kept"), failed(&buffers);
    if (!take_gradients(&buffers, &layers->stack, &pass, args + 8, &gradients, grads)) return failed(&buffers);
    if (!take_threads(&buffers, args[13], &threads)) return failed(&buffers);
    Signals signals;
    begin_without_gil(&pass, &signals);
    const bool done = stack_backward(buffers.kernels, &layers->stack, &pass, &gradients, threads);
    PyEval_RestoreThread(signals.state);
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
        const ptrdiff_t H = step->sizes[2 * k + 1], P = step->sizes[2 * k + 2],
                        Hp = padded_width(buffers->kernels, H);
        if (P > H) return wrong(buffers, "h wider than c");
        weights += 4 * Hp * (below + P) + (P < H ? H * padded_width(buffers->kernels, P) : 0);
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
    const ptrdiff_t H = rows / 4, Hp = padded_width(buffers.kernels, H),
                    width = padded_width(buffers.kernels, columns);
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
    FAST(layers, layers_text),
    FAST(forward, forward_text),
    FAST(backward, backward_text),
    FAST(new_step, new_step_text),
    {"step", py_step, METH_O, step_text},
    FAST(pack, pack_text),
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
