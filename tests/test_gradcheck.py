"""The gradient checker itself: it passes right gradients, and fails wrong ones, naming the place."""

import numpy as np
import pytest

import nplstm


def cubes(point):
    return float((point["x"] ** 3).sum() + (point["y"] ** 2).sum())


def cubes_gradient(point):
    return {"x": 3 * point["x"] ** 2, "y": 2 * point["y"]}


@pytest.fixture
def point(be):
    rng = np.random.default_rng(0)
    return {"x": be.asarray(rng.standard_normal((3, 4))), "y": be.asarray(rng.standard_normal(5))}


def test_a_right_gradient_passes_with_room_to_spare(point):
    assert nplstm.gradcheck(cubes, cubes_gradient, point) < 1e-9


@pytest.mark.parametrize(("name", "index", "written"), [("x", (2, 1), "2, 1"), ("y", (3,), "3")])
def test_the_worst_element_is_named(point, be, name, index, written):
    def slip(p):
        grads = {key: be.to_numpy(grad).copy() for key, grad in cubes_gradient(p).items()}
        grads[name][index] += 0.01
        grads["x"][0, 0] += 0.001
        return {key: be.asarray(grad) for key, grad in grads.items()}

    with pytest.raises(nplstm.GradcheckError, match=rf"worst at {name}\[{written}\]: analytic .*, numerical"):
        nplstm.gradcheck(cubes, slip, point)


def test_the_worst_of_many_elements_is_found_by_halving():
    x = np.random.default_rng(0).standard_normal(50_000)

    def slip(point):
        grad = 2 * point["x"]
        grad[31_415] += 50
        return {"x": grad}

    with pytest.raises(nplstm.GradcheckError, match=r"worst at x\[31415\]"):
        nplstm.gradcheck(lambda p: float((p["x"] ** 2).sum()), slip, {"x": x})


@pytest.mark.parametrize("factor", [1 + 1e-5, 0.0, -1.0, float("nan"), 1e9])
def test_a_wrong_factor_fails(point, be, factor):
    def scaled(p):
        return {name: grad * factor for name, grad in cubes_gradient(p).items()}

    with pytest.raises(nplstm.GradcheckError):
        nplstm.gradcheck(cubes, scaled, point)


def test_a_zero_gradient_of_a_constant_passes(point):
    zeros = {name: array * 0 for name, array in point.items()}
    assert nplstm.gradcheck(lambda p: 1e3, lambda p: zeros, point) == 0


def test_a_number_without_axes_is_checked_too(be):
    point = {"x": be.asarray(np.array(2.0))}
    assert nplstm.gradcheck(lambda p: float(p["x"] ** 2), lambda p: {"x": 2 * p["x"]}, point) < 1e-9
    with pytest.raises(nplstm.GradcheckError, match=r"worst at x\[0\]: analytic 6, numerical 4"):
        nplstm.gradcheck(lambda p: float(p["x"] ** 2), lambda p: {"x": 3 * p["x"]}, point)


def test_a_list_is_no_input():
    with pytest.raises(nplstm.BackendError, match="x: expected an array"):
        nplstm.gradcheck(cubes, lambda p: p, {"x": [1.0]})


def test_float32_is_refused():
    with pytest.raises(nplstm.DTypeError, match="x: gradcheck needs float64, got float32"):
        nplstm.gradcheck(cubes, cubes_gradient, {"x": np.ones(2, np.float32), "y": np.ones(1)})


def test_a_missing_or_misshapen_gradient_is_named(point):
    with pytest.raises(nplstm.ShapeError, match=r"shape \(5,\) for y, got none"):
        nplstm.gradcheck(cubes, lambda p: {"x": p["x"]}, point)
    with pytest.raises(nplstm.ShapeError, match=r"shape \(5,\) for y, got \(1,\)"):
        nplstm.gradcheck(cubes, lambda p: cubes_gradient(p) | {"y": p["y"][:1]}, point)


def test_it_is_small_and_knows_no_lstm():
    import inspect
    import sys

    source = inspect.getsource(sys.modules["nplstm.gradcheck"])
    assert len(source.splitlines()) < 120
    assert "LSTM(" not in source
