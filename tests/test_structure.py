"""Stacks, masks, resets, directions and transforms against the same put together by hand from plain layers."""

import numpy as np
import pytest
from cases import CELLS, B, H, I, P, T
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

import nplstm

F64 = dict(dtype="float64")


def draw(be, *shape, seed=0):
    return be.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape))


def build(be, input_size=I, hidden_size=H, **options):
    return nplstm.LSTM(input_size, hidden_size, **options, **F64, backend=be.name, rng=0)


def layer_of(lstm, layer, suffix, be, input_size, hidden_size, **options):
    """A plain layer with the parameters of one layer and direction of a stack."""
    alone = build(be, input_size, hidden_size, **options)
    names = {name: name.replace("_l0", f"_l{layer}") + suffix for name in alone.parameters}
    alone.load_state_dict({name: lstm.parameters[there] for name, there in names.items()})
    return alone


def backwards(be, lstm, x, state):
    """Run a forward layer on x turned around, and turn its output around."""
    output, final = lstm(x[::-1], state)
    return output[::-1], final


def close(be, actual, expected, rtol=1e-13):
    assert_close(be.to_numpy(actual), be.to_numpy(expected), rtol)


def test_independent_columns_are_two_stacks(be):
    lstm = build(be, num_layers=2, bidirectional=True, stacking="independent")
    x, h_0, c_0 = draw(be, T, B, I), draw(be, 4, B, H), draw(be, 4, B, H, seed=1)
    output, (h_n, c_n) = lstm(x, (h_0, c_0))
    ahead = back = x
    for layer in range(2):
        plain = layer_of(lstm, layer, "", be, I if layer == 0 else H, H)
        ahead, (h, c) = plain(ahead, (h_0[layer : layer + 1], c_0[layer : layer + 1]))
        close(be, h_n[layer], h[0])
        close(be, c_n[layer], c[0])
        k = 2 + layer  # states: all forward layers, then all backward ones
        turned = layer_of(lstm, layer, "_reverse", be, I if layer == 0 else H, H)
        back, (h, c) = backwards(be, turned, back, (h_0[k : k + 1], c_0[k : k + 1]))
        close(be, h_n[k], h[0])
        close(be, c_n[k], c[0])
    close(be, output[..., :H], ahead)
    close(be, output[..., H:], back)


@pytest.mark.parametrize("merge", ["concat", "sum", "mean", "product", "none"])
def test_merging(merge, be):
    lstm = build(be, num_layers=2, bidirectional=True, merge=merge)
    both = build(be, num_layers=2, bidirectional=True)
    both.load_state_dict(lstm.state_dict())
    x = draw(be, T, B, I)
    output, side_by_side = lstm(x, lengths=[3, 7, 0])[0], both(x, lengths=[3, 7, 0])[0]
    ahead, back = side_by_side[..., :H], side_by_side[..., H:]
    expected = {
        "concat": side_by_side, "sum": ahead + back, "mean": (ahead + back) / 2, "product": ahead * back,
    }  # fmt: skip
    if merge == "none":
        close(be, output[0], ahead)
        close(be, output[1], back)
    else:
        close(be, output, expected[merge])


def test_a_gradient_of_one_of_two_outputs(be):
    tape = build(be, bidirectional=True, merge="none").record(draw(be, T, B, I))
    g = draw(be, T, B, H)
    for d in range(2):
        one = [None, None]
        one[d] = g
        both = [g * 0.0, g * 0.0]
        both[d] = g
        grads, expected = tape.backward(tuple(one)), tape.backward(tuple(both))
        close(be, grads.input, expected.input, 1e-15)
        close(be, grads.parameters["weight_hh_l0"], expected.parameters["weight_hh_l0"], 1e-15)
    assert (be.to_numpy(tape.backward((None, None)).input) == 0).all()


def test_layers_of_different_sizes(be):
    sizes = (5, 2, 3)
    lstm = build(be, hidden_size=sizes, num_layers=3)
    x = draw(be, T, B, I)
    states = [tuple(draw(be, 1, B, size, seed=k) for size in sizes) for k in (1, 2)]
    output, (h_n, c_n) = lstm(x, tuple(states))
    expected = x
    for layer, size in enumerate(sizes):
        plain = layer_of(lstm, layer, "", be, I if layer == 0 else sizes[layer - 1], size)
        expected, (h, c) = plain(expected, (states[0][layer], states[1][layer]))
        close(be, h_n[layer], h)
        close(be, c_n[layer], c)
    close(be, output, expected)
    assert isinstance(h_n, tuple)
    one_size = build(be, hidden_size=(H, H), num_layers=2)(x)[1][0]
    assert [h.shape for h in one_size] == [(1, B, H)] * 2  # the form follows the option, not its values


def test_residual_layers_add_what_they_read_before_dropout(be):
    lstm = build(be, num_layers=3, residual=True, dropout=0.5)
    x = draw(be, T, B, I)
    tape = lstm.record(x, rng=np.random.default_rng(0))
    masks = [m[0] for m in tape._pass.tape.dropout]
    expected = layer_of(lstm, 0, "", be, I, H)(x)[0]
    for layer in (1, 2):
        read = expected * masks[layer].reshape(T, B, H)
        expected = expected + layer_of(lstm, layer, "", be, H, H)(read)[0]
    close(be, tape.output, expected)
    first = build(be, I, I, residual=(0,))
    close(be, first(x)[0], layer_of(first, 0, "", be, I, I)(x)[0] + x)


@pytest.mark.parametrize("lengths", [None, [7, 2, 4]])
def test_reverse_is_turned_around(lengths, be):
    x, states = draw(be, T, B, I), (draw(be, 1, B, H), draw(be, 1, B, H, seed=1))
    both = build(be, bidirectional=True)
    names = {name: name + "_reverse" for name in build(be).parameters}
    for order in ("time", "processing"):
        lstm = build(be, reverse=True, output_order=order)
        lstm.load_state_dict({name: both.parameters[there] for name, there in names.items()})
        output, (h_n, c_n) = lstm(x, states, lengths=lengths)
        pair = tuple(be.xp.concatenate([s, s]) for s in states)
        expected, (h, c) = both(x, pair, lengths=lengths)
        close(be, h_n, h[1:])
        close(be, c_n, c[1:])
        for b, length in enumerate(lengths or [T] * B):
            there = expected[:length, b, H:]
            close(be, output[:length, b], there[::-1] if order == "processing" else there)


flags = st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=1, max_size=4)


def pieces_of(mask, reset, b, d):
    """The valid steps of each piece of a sequence, and whether a direction was put back before it came to it."""
    pieces = [[]]
    for t in range(T):
        if reset[t][b] and t > 0:
            pieces.append([])
        if mask[t][b]:
            pieces[-1].append(t)
    again = [k > 0 or reset[0][b] for k in range(len(pieces))]
    if d:  # from the end: the last piece is the first to be run, and the boundary before step 0 comes after all
        again = [k < len(pieces) - 1 for k in range(len(pieces))]
    return list(zip(pieces, again, strict=True))


@given(mask=flags, reset=flags, to=st.sampled_from(["zero", "initial"]), shown=st.sampled_from(["repeat", "zero"]))
def test_masks_and_resets_are_pieces_run_alone(mask, reset, to, shown, be):
    n = min(len(mask), len(reset))
    mask, reset = np.array(mask[:n]).T, np.array(reset[:n]).T
    lstm = build(be, bidirectional=True)
    alone = [layer_of(lstm, 0, "", be, I, H), layer_of(lstm, 0, "_reverse", be, I, H)]
    x, h_0, c_0 = draw(be, T, n, I), draw(be, 2, n, H), draw(be, 2, n, H, seed=1)
    output, (h_n, c_n) = lstm(x, (h_0, c_0), mask=mask, masked_output=shown, reset=reset, reset_to=to)
    output = be.to_numpy(output)
    for b in range(n):
        expected = np.zeros((T, 2 * H))
        for d in range(2):
            first = (h_0[d : d + 1, b], c_0[d : d + 1, b])
            zero = (first[0] * 0.0, first[1] * 0.0)
            pieces = pieces_of(mask, reset, b, d)
            owner = np.cumsum([reset[t][b] and t > 0 for t in range(T)])
            finals = []
            for k, (steps, again) in enumerate(pieces):
                state = zero if again and to == "zero" else first
                values = np.zeros((0, H))
                if steps:
                    part = x[:, b][be.asarray(np.array(steps))]
                    values, state = backwards(be, alone[1], part, state) if d else alone[0](part, state)
                    values = be.to_numpy(values)
                begin = zero if again and to == "zero" else first
                finals.append(state)
                last = be.to_numpy(begin[0])[0]
                own = [t for t in range(T) if owner[t] == k]
                for t in reversed(own) if d else own:
                    if t in steps:
                        last = values[steps.index(t)]
                    if t in steps or shown == "repeat":
                        expected[t, d * H : (d + 1) * H] = last
            h, c = finals[0] if d else finals[-1]
            close(be, h_n[d, b], h[0])
            close(be, c_n[d, b], c[0])
        assert_close(output[:, b], expected, 1e-13, "output")


def test_a_mask_that_is_padding_is_lengths(be):
    lstm = build(be, num_layers=2, bidirectional=True)
    x, lengths = draw(be, T, B, I), np.array([4, 0, 7])
    mask = np.arange(T)[:, None] < lengths
    output, (h_n, c_n) = lstm(x, lengths=lengths)
    masked, (h, c) = lstm(x, mask=mask, masked_output="zero")
    close(be, masked, output, 1e-14)
    close(be, h, h_n, 1e-14)
    close(be, c, c_n, 1e-14)


def test_a_reset_in_chunks_is_a_reset_in_one(be):
    """With reset_to="zero" the state that is passed on between chunks is no other than the running one."""
    lstm = build(be, num_layers=2)
    x = draw(be, T, B, I)
    reset = np.random.default_rng(0).random((T, B)) < 0.3
    reset[4, 1] = True  # at the start of a chunk
    whole, final = lstm(x, reset=reset)
    state, outputs = None, []
    for chunk in (slice(0, 4), slice(4, T)):
        output, state = lstm(x[chunk], state, reset=reset[chunk])
        outputs.append(output)
    close(be, be.xp.concatenate(outputs), whole)
    close(be, state[0], final[0])


def test_a_reset_in_chunks_backwards_is_a_reset_in_one(be):
    lstm = build(be, reverse=True)
    x, states = draw(be, T, B, I), (draw(be, 1, B, H), draw(be, 1, B, H, seed=1))
    reset = np.random.default_rng(0).random((T, B)) < 0.3
    reset[4] = False  # a boundary between the chunks is for the caller to make
    reset[0, 0] = True
    whole, final = lstm(x, states, reset=reset)
    late, between = lstm(x[4:], states, reset=reset[4:])
    early, (h, c) = lstm(x[:4], between, reset=reset[:4])
    close(be, be.xp.concatenate([early, late]), whole)
    close(be, h, final[0])
    close(be, c, final[1])


class Plus(nplstm.HiddenTransform):
    """h beside a multiple of itself; counts its steps in a state."""

    state_size = 1

    def recurrent_size(self, hidden_size):
        return 2 * hidden_size

    def forward(self, h, state, parameters, context):
        return nplstm.backends.namespace(h).concatenate([h, h * 0.5], axis=1), state + 1.0, None


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_transform_is_what_a_caller_does_between_steps(bidirectional, be):
    """The layer in one call, and the same weights one step at a time with r made outside."""
    lstm = build(be, 2, 3, hidden_transform=Plus(), bidirectional=bidirectional)
    cell = nplstm.LSTMCell(2, 3, recurrent_size=6, **F64, backend=be.name, rng=1)
    for d, suffix in enumerate(["", "_reverse"] if bidirectional else [""]):
        names = {name: name + "_l0" + suffix for name in cell.parameters}
        cell.load_state_dict({name: lstm.parameters[there] for name, there in names.items()})
        x = draw(be, T, B, 2)
        output, (h_n, c_n, s_n) = lstm(x)
        h, c = be.xp.zeros((B, 3)), be.xp.zeros((B, 3))
        for t in reversed(range(T)) if d else range(T):
            h, c = cell(x[t], (be.xp.concatenate([h, h * 0.5], axis=1), c))
            close(be, output[t, :, 3 * d : 3 * d + 3], h)
        close(be, h_n[d], h)
        close(be, c_n[d], c)
        assert (be.to_numpy(s_n) == T).all()


def test_an_empty_batch_runs_with_the_recurrent_input_outside(be):
    lstm, cell = build(be, 2, 3, recurrent_size=5), nplstm.LSTMCell(2, 3, recurrent_size=5, **F64, backend=be.name)
    tape = lstm.record(be.xp.zeros((1, 0, 2)))
    assert tape.backward(tape.output).h_0.shape == (1, 0, 5)
    one = cell.record(be.xp.zeros((0, 2)))
    assert one.backward(one.h).h_0.shape == (0, 5)


def test_one_step_at_a_time_with_the_recurrent_input_given(be):
    """A 3 wide h beside itself feeds a 6 wide recurrent input: the layer without a transform."""
    inside = build(be, 2, 3, hidden_transform=Plus(), num_layers=2)
    outside = build(be, 2, 3, recurrent_size=6, num_layers=2)
    outside.load_state_dict(inside.state_dict())
    x, c = draw(be, T, B, 2), be.xp.zeros((2, B, 3))
    h = be.xp.zeros((2, B, 3))
    expected, (h_n, c_n, _) = inside(x)
    for t in range(T):
        output, (h, c) = outside(x[t : t + 1], (be.xp.concatenate([h, h * 0.5], axis=2), c))
        assert h.shape == (2, B, 3)
        close(be, output[0], expected[t])
    close(be, h, h_n)
    close(be, c, c_n)
    tape = outside.record(x[:1], (be.xp.concatenate([h, h], axis=2), c))
    assert tape.backward(tape.output).h_0.shape == (2, B, 6)


def test_a_projection_as_a_transform_is_proj_size_for_the_recurrence(be):
    projected, transformed = build(be, proj_size=P), build(be, hidden_transform=nplstm.Projection(P))
    weights = {name.replace("weight_hr", "transform_weight"): a for name, a in projected.parameters.items()}
    transformed.load_state_dict(weights)
    x = draw(be, T, B, I)
    p, (h_p, c_p) = projected(x)
    t, (h_t, c_t) = transformed(x)
    weight = projected.parameters["weight_hr_l0"].T
    close(be, t @ weight, p)
    close(be, h_t @ weight, h_p)
    close(be, c_t, c_p)


def test_a_context_per_step_is_a_wider_input(be):
    """W_hh [h; context] = W_hh[:, :H] h + W_hh[:, H:] context."""
    lstm = build(be, hidden_transform=nplstm.ContextConcatenation(P))
    x, context = draw(be, T, B, I), draw(be, T, B, P)
    wide = build(be, I + P)
    weights = dict(lstm.parameters)
    recurrent = weights["weight_hh_l0"]
    weights["weight_ih_l0"] = be.xp.concatenate([weights["weight_ih_l0"], recurrent[:, H:]], axis=1)
    weights["weight_hh_l0"] = recurrent[:, :H]
    wide.load_state_dict(weights)
    output, (_, c_n) = lstm(x, context=context)
    expected, (_, c) = wide(be.xp.concatenate([x, context], axis=2))
    close(be, output, expected)
    close(be, c_n, c)


def test_attention_reads_out_by_its_definition(be):
    transform = nplstm.AttentionReadout(0.5)
    h, support, residual = draw(be, B, H), draw(be, B, 4, H), draw(be, B, H, seed=1)
    r, _, _ = transform.forward(h, None, {}, {"support": support, "residual": residual})
    r, h, support, residual = map(be.to_numpy, (r, h, support, residual))
    for b in range(B):
        q = h[b] + residual[b]
        weights = np.exp([0.5 * q @ s for s in support[b]])
        expected = sum(w * s for w, s in zip(weights / weights.sum(), support[b], strict=True))
        assert_close(r[b], np.concatenate([q, expected]), 1e-13)


def test_gates_stay_where_they_are_under_dropout_of_the_input(be):
    """The mask of the input is one for all steps of a sequence, and another for each sequence and direction."""
    lstm = build(be, bidirectional=True, cell=nplstm.CellSpec(input_dropout=0.5, recurrent_dropout=0.5))
    tape = lstm.record(draw(be, T, B, I), rng=np.random.default_rng(0))
    ahead, back = (sequence.step.masks for sequence in tape._pass.tape.layers[0])
    for mask in (ahead.input, ahead.recurrent):
        assert mask.shape[0] == B
        assert set(np.unique(be.to_numpy(mask))) == {0.0, 2.0}
        assert not np.array_equal(be.to_numpy(mask)[0], be.to_numpy(mask)[1])
    assert not np.array_equal(be.to_numpy(ahead.input), be.to_numpy(back.input))


@pytest.mark.usefixtures("plain_engine")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_one_step_of_a_layer(name, wide, be):
    """With the same weights and the same generator: values and gradients of everything, to the bit."""
    spec = dict(CELLS[name])
    if wide:
        spec.pop("zoneout_h", None)
    options = dict(cell=nplstm.CellSpec(**spec), recurrent_size=H + 2 if wide else None)
    cell = nplstm.LSTMCell(I, H, **options, **F64, backend=be.name, rng=0)
    lstm = build(be, **options)
    lstm.load_state_dict({n + "_l0": array for n, array in cell.parameters.items()})
    x, h, c = draw(be, B, I), draw(be, B, H + 2 if wide else H), draw(be, B, H, seed=1)
    one, whole = cell(x, (h, c)), lstm(x[None], (h[None], c[None]))[1]
    assert all(np.array_equal(be.to_numpy(a), be.to_numpy(b[0])) for a, b in zip(one, whole, strict=True))
    tape = cell.record(x, (h, c), rng=np.random.default_rng(0))
    layer = lstm.record(x[None], (h[None], c[None]), rng=np.random.default_rng(0))
    g_h, g_c = draw(be, B, H, seed=2), draw(be, B, H, seed=3)
    grads, expected = tape.backward(g_h, g_c), layer.backward(None, (g_h[None], g_c[None]))
    close(be, grads.input, expected.input[0], 1e-15)
    close(be, grads.h_0, expected.h_0[0], 1e-15)
    close(be, grads.c_0, expected.c_0[0], 1e-15)
    for parameter, array in grads.parameters.items():
        close(be, array, expected.parameters[parameter + "_l0"], 1e-15)


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_zoneout_of_all_keeps_the_state(z, be):
    lstm = build(be, cell=nplstm.CellSpec(zoneout_h=z, zoneout_c=z))
    h_0, c_0 = draw(be, 1, B, H), draw(be, 1, B, H, seed=1)
    _, final = lstm(draw(be, T, B, I), (h_0, c_0))
    for state, initial in zip(final, (h_0, c_0), strict=True):
        assert np.array_equal(be.to_numpy(state), be.to_numpy(initial)) == (z == 1.0)


@pytest.mark.parametrize("kind", ["xavier_uniform", "xavier_normal", "orthogonal"])
def test_initialisers(kind, be):
    spec = nplstm.CellSpec(init_ih=kind, init_hh=kind, init_bias="zeros", forget_bias=1.0)
    lstm = nplstm.LSTM(50, 40, cell=spec, bidirectional=True, **F64, backend=be.name, rng=0)
    parameters = {name: be.to_numpy(a) for name, a in lstm.parameters.items()}
    for suffix in ("", "_reverse"):
        bias = parameters["bias_ih_l0" + suffix] + parameters["bias_hh_l0" + suffix]
        assert (bias == np.repeat([0, 1, 0, 0], 40)).all()
        for weight in (parameters["weight_ih_l0" + suffix], parameters["weight_hh_l0" + suffix]):
            rows, columns = weight.shape
            if kind == "orthogonal":
                assert_close(weight.T @ weight, np.eye(columns), 1e-13)
                continue
            variance = 2 / (rows + columns)
            assert abs(weight.mean()) < 5 * (variance / weight.size) ** 0.5
            assert abs(weight.var() / variance - 1) < 0.05
            assert kind == "xavier_normal" or np.abs(weight).max() <= (3 * variance) ** 0.5
    wide = nplstm.LSTM(500, 10, cell=spec, **F64, rng=0).parameters["weight_ih_l0"]
    if kind == "orthogonal":
        assert_close(wide @ wide.T, np.eye(40), 1e-13)


def test_a_spec_is_written_and_read_back():
    import json

    for options in CELLS.values():
        spec = nplstm.CellSpec(**options)
        assert nplstm.CellSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert eval(repr(spec), vars(nplstm)) == spec  # it is printed as it is written
        assert hash(spec) == hash(nplstm.CellSpec(**options))
    with pytest.raises(AttributeError):
        spec.clip = 3.0
