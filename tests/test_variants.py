"""Every option of the cell with every option of the layer, against differences, equations and itself."""

import sys

import numpy as np
import pytest
from cases import CELLS, LAYERS, T
from helpers import assert_close
from variants import Variant

import nplstm
from nplstm.backends import get_backend
from nplstm.core.masks import inference_masks

PAIRS = [(cell, layer) for cell in CELLS for layer in LAYERS]


def check_gradients(cell, layer, be, steps=T, seed=0, directions=1):
    """A random linear function of all results, in all inputs and parameters."""
    variant = Variant(cell, layer, be, steps=steps, seed=seed)
    point = variant.place()
    cotangents = variant.cotangents(variant.results(variant.call(point)))

    def function(point):
        results = variant.results(variant.call(point))
        return sum(float((value * cotangents[name]).sum()) for name, value in results.items())

    def gradient(point):
        return variant.gradients(variant.call(point), cotangents)

    # small steps: activations and clipping have corners, which the differences must not reach across
    return nplstm.gradcheck(function, gradient, point, directions=directions, step=1e-5, rng=seed)


@pytest.mark.parametrize(("cell", "layer"), PAIRS)
def test_gradients(cell, layer, be):
    check_gradients(cell, layer, be)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_one_step_and_of_other_sizes(cell, be):
    check_gradients(cell, "plain", be, steps=1)
    for seed in (1, 2):
        check_gradients(cell, "two layers", be, seed=seed)


def test_the_check_sees_a_slip_in_each_part(monkeypatch):
    """Break one backward at a time, by a thousandth."""
    be = get_backend("numpy")
    # which element is worst is tested in test_gradcheck.py, and takes seconds
    monkeypatch.setattr(sys.modules[nplstm.gradcheck.__module__], "_worst_element", lambda *_: "some element")
    from nplstm.batch import segment_layout
    from nplstm.core import cell_variants, step
    from nplstm.layers import output, stack

    def spoilt(function, factor=1.001):
        def wrong(*args, **kwargs):
            result = function(*args, **kwargs)
            return (result[0] * factor, *result[1:]) if isinstance(result, tuple) else result * factor

        return wrong

    slips = [
        (cell_variants, "peephole_backward", "peephole diagonal", "plain"),
        (cell_variants, "peephole_weight_backward", "peephole full", "plain"),
        (cell_variants, "layer_norm_backward", "layer norm output", "plain"),
        (step, "layer_norm_backward", "layer norm state", "plain"),
        (cell_variants, "clip_backward", "clip", "plain"),
        (step, "dropout_backward", "recurrent dropout", "plain"),
        (step, "zoneout_backward", "zoneout c", "plain"),
        (step, "zoneout_backward", "zoneout h", "projection"),
        (output, "_merge_backward", "standard", "product"),
        (stack, "dropout_backward", "standard", "two layers"),
    ]
    for module, name, cell, layer in slips:
        with monkeypatch.context() as patch:
            whole = getattr(module, name)
            wrong = spoilt(whole) if name != "_merge_backward" else lambda *a: [g * 1.001 for g in whole(*a)]
            patch.setattr(module, name, wrong)
            with nplstm.use_engines("plain"), pytest.raises(nplstm.GradcheckError):
                check_gradients(cell, layer, be)
    for owner, name, layer in (
        (segment_layout.SegmentLayout, "final_gradient", "reset"),
        (segment_layout.SegmentLayout, "initial_gradient", "reset to initial"),
        (segment_layout.FilledLayout, "fill_gradient", "mask"),
        (nplstm.Projection, "backward", "transform"),
        (nplstm.AttentionReadout, "backward", "attention"),
        (nplstm.ContextConcatenation, "backward", "context by step"),
    ):
        with monkeypatch.context() as patch:
            whole = getattr(owner, name)

            def wrong(*args, whole=whole, **kwargs):
                result = whole(*args, **kwargs)
                if isinstance(result, nplstm.TransformGradients):
                    return result._replace(h=result.h * 1.001)
                return (result[0] * 1.001, *result[1:]) if isinstance(result, tuple) else result * 1.001

            patch.setattr(owner, name, wrong)
            with pytest.raises(nplstm.GradcheckError):
                check_gradients("standard", layer, be)


@pytest.mark.parametrize(("cell", "layer"), PAIRS)
def test_a_call_is_a_recording_without_noise(cell, layer, be):
    variant = Variant(cell, layer, be)
    point = variant.place()
    recorded = variant.results(variant.call(point, training=False))
    output, states = variant.call(point, record=False)
    shown = nplstm.layers.LSTMTape.__new__(nplstm.layers.LSTMTape)
    shown.output, shown.h_n, shown.c_n = output, states[0], states[1]
    shown.s_n = states[2] if len(states) == 3 else None
    for name, value in variant.results(shown).items():
        assert np.array_equal(be.to_numpy(value), be.to_numpy(recorded[name])), name


@pytest.mark.other_backends
@pytest.mark.parametrize(("cell", "layer"), PAIRS)
def test_every_backend_computes_the_same(cell, layer, be):
    """On the backend under test and on NumPy: values and gradients of everything, masks included."""
    found = []
    for backend in (be, get_backend("numpy")):
        variant = Variant(cell, layer, backend)
        tape = variant.call(variant.place())
        results = variant.results(tape)
        results |= variant.gradients(tape, variant.cotangents(results))
        found.append({name: backend.to_numpy(value) for name, value in results.items()})
    for name, expected in found[1].items():
        assert_close(found[0][name], expected, 1e-11, name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layer", LAYERS)
def test_float32_is_float64_rounded(cell, layer, be):
    """Nothing on the way changes the element type, and the values are those of float64 to float32's rounding."""
    found = []
    for dtype in ("float32", "float64"):
        variant = Variant(cell, layer, be, dtype)
        variant.inputs = {name: a.astype("float32").astype(dtype) for name, a in variant.inputs.items()}
        # float64 draws other masks than float32: what can be compared is inference
        tape = variant.call(variant.place(), training=False)
        results = variant.results(tape)
        cotangents = {
            name: be.asarray(be.to_numpy(c).astype("float32").astype(dtype))
            for name, c in variant.cotangents(results).items()
        }
        results |= variant.gradients(tape, cotangents)
        found.append({name: be.to_numpy(value) for name, value in results.items()})
    corners = any(word in cell for word in ("relu", "clip", "everything", "affine"))
    for name, value in found[0].items():
        assert value.dtype == np.float32, name
        if not corners:  # at a corner a rounding decides which side's slope is taken
            # seven steps through a normalisation of few cells, or through softplus, multiply float32's 6e-8
            assert_close(value.astype(float), found[1][name], 5e-4 if "norm" in cell else 5e-5, name)


def halves(variant, point, cut):
    """Run the first steps, then the others from where these ended; return the output and the final states."""
    first, second = dict(point), dict(point)
    axis = variant.time_axis
    said = variant.said
    per_step = ["input"] + [
        name for name in point if name.startswith("context.") and "step" in variant.row.transform
    ]
    index = [slice(None)] * axis
    for name in per_step:
        first[name], second[name] = point[name][*index, :cut], point[name][*index, cut:]
    outputs = []
    for part, flags in ((first, slice(None, cut)), (second, slice(cut, None))):
        variant.said = {k: v[*index, flags] if isinstance(v, np.ndarray) else v for k, v in said.items()}
        output, states = variant.call(part, record=False)
        outputs.append(output)
        for name, state in zip(("h_0", "c_0", "s_0"), states, strict=False):
            second |= (
                {f"{name}.{k}": s for k, s in enumerate(state)} if isinstance(state, tuple) else {name: state}
            )
    variant.said = said
    return variant.be.xp.concatenate(outputs, axis=axis), states


@pytest.mark.parametrize("layer", [name for name, row in LAYERS.items() if row.splits])
@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_are_the_whole(cell, layer, be):
    variant = Variant(cell, layer, be)
    point = variant.place()
    output, states = variant.call(point, record=False)
    for cut in (1, 4, T - 1):
        output_of_halves, states_of_halves = halves(variant, point, cut)
        assert_close(be.to_numpy(output_of_halves), be.to_numpy(output), 1e-12, "output")
        for k, (part, whole) in enumerate(zip(states_of_halves, states, strict=True)):
            pairs = zip(part, whole, strict=True) if isinstance(whole, tuple) else [(part, whole)]
            for a, b in pairs:
                assert_close(be.to_numpy(a), be.to_numpy(b), 1e-12, f"state {k}")


@pytest.mark.parametrize(
    "layer", [name for name, row in LAYERS.items() if {"lengths", "ends", "mask"} & {*row.say}]
)
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_left_out_changes_nothing(cell, layer, be):
    """Values and gradients, whatever stands past an end or at a masked step, NaN included."""
    variant = Variant(cell, layer, be)
    said = variant.said
    t = np.arange(variant.steps)
    if "mask" in said:
        mask = said["mask"]
    else:
        mask = t < said["lengths"][:, None] if variant.time_axis else t[:, None] < said["lengths"]
    found = []
    for fill in (0.0, np.nan):
        variant.inputs["input"] = variant.inputs["input"].copy()
        variant.inputs["input"][~mask] = fill
        point = variant.place()
        tape = variant.call(point)
        results = variant.results(tape)
        results |= variant.gradients(tape, variant.cotangents(results))
        found.append({name: be.to_numpy(value) for name, value in results.items()})
        assert (found[-1]["input"][~mask] == 0).all()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def reference_masks(masks, params, b, T, steps):
    """One sequence's masks, (T, width) each, out of a tape's masks of a full batch."""
    rows = [steps.rows(t).start + b for t in range(T)]

    def of_sequence(values, width, by_step=False):
        if values is None:
            return np.ones((T, width))
        return values[rows] if by_step else np.tile(values[b], (T, 1))

    def kept(values):
        if values is None or isinstance(values, float):
            return np.full((T, 1), values or 0.0)
        return values[rows]

    return {
        "input": of_sequence(masks.input, params.weight_ih.shape[1]),
        "recurrent": of_sequence(masks.recurrent, params.weight_hh.shape[1], masks.recurrent_by_step),
        "weight": np.ones_like(params.weight_hh) if masks.weight is None else masks.weight,
        "keep_h": kept(masks.keep_h),
        "keep_c": kept(masks.keep_c),
    }


def of_first_layer(tape):
    """What the tape of whatever engine kept of the lowest layer: masks, parameters, steps."""
    kept = tape._pass.tape.layers[0]
    if isinstance(kept, list):  # the time loop's, by direction
        return kept[0].step.masks, kept[0].step.params, kept[0].steps
    return inference_masks(kept.weights[0].spec), kept.weights[0].params, kept.steps


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", ["plain", "no bias", "projection"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_equations(cell, layer, training):
    """Against the same equations written once more as a plain loop, with the masks that the tape kept."""
    from reference_cell import run_sequence

    be = get_backend("numpy")
    variant = Variant(cell, layer, be)
    point = variant.place()
    tape = variant.call(point, training=training)
    drawn, params, steps = of_first_layer(tape)
    for b in range(3):
        masks = reference_masks(drawn, params, b, T, steps)
        named = params.named()
        output, h, c = run_sequence(
            variant.lstm.cell, point["input"][:, b], point["h_0"][0, b], point["c_0"][0, b], named, masks
        )
        assert_close(tape.output[:, b], output, 1e-12, "output")
        assert_close(tape.h_n[0, b], h, 1e-12, "h_n")
        assert_close(tape.c_n[0, b], c, 1e-12, "c_n")


@pytest.mark.usefixtures("plain_engine")
def test_the_composed_cell_with_every_part_off_is_the_standard_cell_to_the_bit(be, monkeypatch):
    from nplstm.core.cell_spec import CellSpec

    found = []
    for composed in (False, True):
        with monkeypatch.context() as patch:
            if composed:
                patch.setattr(CellSpec, "composes_cell", property(lambda self: True))
            for layer in ("projection", "bidirectional", "mask"):
                variant = Variant("standard", layer, be)
                tape = variant.call(variant.place())
                used = type(tape._pass.tape.layers[0][0].step.cell).__name__
                assert used == ("ComposedCell" if composed else "StandardCell")
                results = variant.results(tape)
                results |= variant.gradients(tape, variant.cotangents(results))
                found.append({name: be.to_numpy(value) for name, value in results.items()})
    for standard, composed in zip(found[:3], found[3:], strict=True):
        assert all(np.array_equal(standard[name], composed[name]) for name in standard)


@pytest.mark.parametrize("cell", [name for name in CELLS if name != "standard"])
def test_every_option_changes_what_is_computed(cell, be):
    """An option that were ignored in silence would pass every other test."""
    found = []
    for name in ("standard", cell):
        lstm = nplstm.LSTM(5, 5, cell=nplstm.CellSpec(**CELLS[name]), dtype="float64", backend=be.name, rng=0)
        for parameter, array in lstm.parameters.items():
            lstm.parameters[parameter] = array * 2 + 0.1
        x = be.asarray(np.random.default_rng(0).standard_normal((T, 2, 5)) * 2)
        found.append(be.to_numpy(lstm.record(x, rng=np.random.default_rng(0)).output))
    assert np.abs(found[0] - found[1]).max() > 1e-3


ACTIVATIONS = {
    "Sigmoid": (), "Tanh": (), "Relu": (), "Affine": (0.8, -0.3), "LeakyRelu": (0.2,), "ThresholdedRelu": (0.3,),
    "ScaledTanh": (1.3, 0.7), "HardSigmoid": (0.3, 0.4), "Elu": (0.7,), "Softsign": (), "Softplus": (),
}  # fmt: skip


@pytest.mark.parametrize("role", range(3))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_in_every_role(name, role, be):
    """Against its definition as the operator's documentation writes it, and its slope against differences."""
    from reference_cell import run_sequence

    activations = [nplstm.Activation("Sigmoid"), nplstm.Activation("Tanh"), nplstm.Activation("Tanh")]
    activations[role] = nplstm.Activation(name, *ACTIVATIONS[name])
    spec = nplstm.CellSpec(activations=activations)
    lstm = nplstm.LSTM(3, 5, cell=spec, dtype="float64", backend=be.name, rng=0)
    x = np.random.default_rng(1).standard_normal((4, 2, 3)) * 2
    tape = lstm.record(be.asarray(x))
    ones = {k: np.ones((4, 1)) for k in ("input", "recurrent")} | {"weight": 1.0}
    masks = ones | {k: np.zeros((4, 1)) for k in ("keep_h", "keep_c")}
    weights = {k.removesuffix("_l0"): be.to_numpy(array) for k, array in lstm.parameters.items()}
    for b in range(2):
        output, _, c = run_sequence(spec, x[:, b], np.zeros(5), np.zeros(5), weights, masks)
        assert_close(be.to_numpy(tape.output)[:, b], output, 1e-13)
        assert_close(be.to_numpy(tape.c_n)[0, b], c, 1e-13)

    def gradient(point):
        recorded = lstm.record(point["x"])
        return {"x": recorded.backward(recorded.output * 0.0 + 1.0).input}

    nplstm.gradcheck(lambda point: float(lstm(point["x"])[0].sum()), gradient, {"x": be.asarray(x)}, step=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_extreme_values_are_silent(name, be):
    """Warnings are errors: nothing overflows on the way to a value that is finite."""
    a = be.asarray(np.array([[-1e4, -50.0, -1e-30, 0.0, 1e-30, 50.0, 1e4]], np.float32))
    activation = nplstm.Activation(name, *ACTIVATIONS[name])
    y = activation.forward(a.copy(), out=be.xp.empty_like(a))
    slope = activation.backward(a * 0 + 1, a, y)
    assert np.isfinite(be.to_numpy(y)).all()
    assert np.isfinite(be.to_numpy(slope)).all()
    assert slope.dtype == y.dtype == a.dtype


@pytest.mark.other_backends  # NumPy has no half precision here
@pytest.mark.parametrize("layer", ["bidirectional", "reset and mask", "attention", "state"])
@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_stays_half_and_finite(cell, layer, be):
    variant = Variant(cell, layer, be, "float16")
    tape = variant.call(variant.place())
    results = variant.results(tape)
    results |= variant.gradients(tape, variant.cotangents(results))
    for name, value in results.items():
        assert value.dtype == np.float16, name
        assert np.isfinite(be.to_numpy(value)).all(), name
