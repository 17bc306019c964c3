"""Packing and padding: round trips, torch's conventions, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nplstm

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def sequences_of(lengths, be, trailing=(2,), dtype=np.float64):
    rng = np.random.default_rng(len(lengths))
    return [be.asarray(rng.integers(1, 100, (n, *trailing)).astype(dtype)) for n in lengths]


@given(
    lengths=LENGTHS,
    batch_first=st.booleans(),
    trailing=st.sampled_from([(), (2,), (2, 3)]),
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
    extra=st.integers(0, 3),
)
def test_packing_and_padding_are_inverse(lengths, batch_first, trailing, dtype, extra, be):
    sequences = sequences_of(lengths, be, trailing, dtype)
    padded = nplstm.pad_sequence(sequences, batch_first, padding_value=-1)
    packed = nplstm.pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=False)
    total = max(lengths) + extra
    again, counted = nplstm.pad_packed_sequence(packed, batch_first, padding_value=-1, total_length=total)
    assert counted.tolist() == lengths
    assert again.dtype == dtype
    for b, sequence in enumerate(sequences):
        row = be.to_numpy(again[b] if batch_first else again[:, b])
        assert np.array_equal(row[: lengths[b]], be.to_numpy(sequence))
        assert (row[lengths[b] :] == -1).all()
        assert len(row) == total


@given(lengths=LENGTHS)
def test_packed_rows_are_the_steps_of_the_sorted_sequences(lengths, be):
    sequences = [be.to_numpy(s) for s in sequences_of(lengths, be)]
    packed = nplstm.pack_sequence([be.asarray(s) for s in sequences], enforce_sorted=False)
    order = sorted(range(len(lengths)), key=lambda b: -lengths[b])  # stable
    expected = [sequences[b][t] for t in range(max(lengths)) for b in order if lengths[b] > t]
    assert np.array_equal(be.to_numpy(packed.data), np.array(expected))
    assert packed.batch_sizes.tolist() == [sum(n > t for n in lengths) for t in range(max(lengths))]
    assert packed.sorted_indices.tolist() == order
    assert packed.unsorted_indices[packed.sorted_indices].tolist() == list(range(len(lengths)))


@given(lengths=LENGTHS, enforce=st.booleans(), batch_first=st.booleans())
def test_torch_packs_the_same(lengths, enforce, batch_first, torch_reference, be):
    import torch
    from torch.nn.utils import rnn

    lengths = sorted(lengths, reverse=True) if enforce else lengths
    arrays = [be.to_numpy(s) for s in sequences_of(lengths, be)]
    tensors = [torch.from_numpy(a) for a in arrays]
    ours = nplstm.pack_sequence([be.asarray(a) for a in arrays], enforce_sorted=enforce)
    theirs = rnn.pack_sequence(tensors, enforce_sorted=enforce)
    assert np.array_equal(be.to_numpy(ours.data), theirs.data.numpy())
    assert ours.batch_sizes.tolist() == theirs.batch_sizes.tolist()
    assert (ours.sorted_indices is None) == (theirs.sorted_indices is None)
    padded, counted = nplstm.pad_packed_sequence(ours, batch_first, padding_value=2.5)
    expected, expected_lengths = rnn.pad_packed_sequence(theirs, batch_first, padding_value=2.5)
    assert np.array_equal(be.to_numpy(padded), expected.numpy())
    assert counted.tolist() == expected_lengths.tolist()


def test_any_iterable_of_sequences_is_taken(be):
    sequences = sequences_of([3, 1], be)
    assert np.array_equal(
        be.to_numpy(nplstm.pack_sequence(iter(sequences)).data), be.to_numpy(nplstm.pack_sequence(sequences).data)
    )


def test_left_padding(be):
    padded = nplstm.pad_sequence(sequences_of([3, 1], be, ()), batch_first=True, padding_side="left")
    assert (be.to_numpy(padded)[1, :2] == 0).all()
    assert be.to_numpy(padded)[1, 2] > 0


def test_an_lstm_takes_and_gives_packed_sequences_in_the_users_order(be):
    lengths = [2, 5, 3]
    lstm = nplstm.LSTM(2, 4, dtype="float64", backend=be.name, bidirectional=True, rng=0)
    sequences = sequences_of(lengths, be)
    padded = nplstm.pad_sequence(sequences)
    expected, (h, c) = lstm(padded, lengths=lengths)
    output, (h_n, c_n) = lstm(nplstm.pack_sequence(sequences, enforce_sorted=False))
    assert isinstance(output, nplstm.PackedSequence)
    assert np.array_equal(be.to_numpy(nplstm.pad_packed_sequence(output)[0]), be.to_numpy(expected))
    assert np.array_equal(be.to_numpy(h_n), be.to_numpy(h))
    assert np.array_equal(be.to_numpy(c_n), be.to_numpy(c))


def test_a_packed_sequence_is_a_tuple_and_completes_its_permutations():
    data, batch_sizes, order, inverse = nplstm.pack_sequence([np.ones(1), np.ones(3)], enforce_sorted=False)
    assert order.tolist() == inverse.tolist() == [1, 0]
    three = np.zeros(3)
    assert nplstm.PackedSequence(three, [3], [2, 0, 1]).unsorted_indices.tolist() == [1, 2, 0]
    assert nplstm.PackedSequence(three, [3], None, [1, 2, 0]).sorted_indices.tolist() == [2, 0, 1]
    assert nplstm.PackedSequence(data, batch_sizes).sorted_indices is None


@pytest.mark.parametrize("batch_sizes", [[], [0], [2, 3], [3, 1], [3, 3]])
def test_a_packed_sequence_with_impossible_sizes_is_refused(batch_sizes):
    with pytest.raises(nplstm.ShapeError, match="batch_sizes: expected positive sizes"):
        nplstm.PackedSequence(np.zeros(5), batch_sizes)


@pytest.mark.parametrize("order", [[0, 0], [1, 2], [0], [0, 1, 2]])
def test_a_packed_sequence_with_a_wrong_permutation_is_refused(order):
    with pytest.raises(nplstm.ShapeError, match="sorted_indices: expected a permutation of 2"):
        nplstm.PackedSequence(np.zeros(3), [2, 1], order)


def test_permutations_that_are_not_inverse_are_refused():
    with pytest.raises(nplstm.ShapeError, match="inverse"):
        nplstm.PackedSequence(np.zeros(3), [3], [1, 2, 0], [1, 2, 0])
    with pytest.raises(nplstm.ShapeError, match="inverse"):  # right in the last place alone
        nplstm.PackedSequence(np.zeros(4), [4], [1, 2, 0, 3], [1, 2, 0, 3])


X = np.zeros((4, 3, 2))
REFUSED = {
    "unsorted": (lambda: nplstm.pack_padded_sequence(X, [1, 2, 3]), "lengths: expected decreasing order, got"),
    "zero": (lambda: nplstm.pack_padded_sequence(X, [3, 2, 0]), r"got lengths\[2\] = 0; LSTM's lengths= takes"),
    "negative": (lambda: nplstm.pack_padded_sequence(X, [3, 2, -1]), r"in \[1, T=4\], got lengths\[2\] = -1"),
    "too long": (lambda: nplstm.pack_padded_sequence(X, [5, 2, 1]), r"got lengths\[0\] = 5"),
    "too few": (lambda: nplstm.pack_padded_sequence(X, [4, 2]), "one for each of B=3 sequences, got 2"),
    "floats": (lambda: nplstm.pack_padded_sequence(X, [4.0, 2.0, 1.0]), "lengths: expected integers, got float64"),
    "ragged": (lambda: nplstm.pack_padded_sequence(X, [[1], [2, 3]]), "lengths: expected a sequence of integers"),
    "nested": (
        lambda: nplstm.pack_padded_sequence(X, [[4, 2, 1]]),
        r"lengths: expected shape \(B,\), got \(1, 3\)",
    ),
    "flat": (lambda: nplstm.pack_padded_sequence(np.zeros(3), [3]), r"input: expected shape \(T, B, \.\.\.\)"),
    "empty batch": (lambda: nplstm.pack_padded_sequence(X[:, :0], []), "expected at least one sequence"),
    "list": (lambda: nplstm.pack_padded_sequence([[1.0]], [1]), "input: expected an array of NumPy or CuPy, got"),
    "short total": (
        lambda: nplstm.pad_packed_sequence(nplstm.pack_sequence([np.zeros(3)]), total_length=2),
        "total_length: expected at least the longest length 3, got 2",
    ),
    "not packed": (lambda: nplstm.pad_packed_sequence(X), "sequence: expected a PackedSequence, got ndarray"),
    "no sequences": (lambda: nplstm.pad_sequence([]), "sequences: expected at least one array, got none"),
    "other widths": (
        lambda: nplstm.pad_sequence([X, X[:, :2]]),
        r"sequences\[1\]: expected shape \(length, 3, 2\)",
    ),
    "other dtypes": (lambda: nplstm.pad_sequence([X, X.astype(int)]), r"sequences\[1\]: is int64"),
    "sequences None": (
        lambda: nplstm.pad_sequence(None),
        "sequences: expected arrays in a sequence, got NoneType",
    ),
    "padding text": (
        lambda: nplstm.pad_sequence([X], padding_value="a"),
        "padding_value: expected a number, got 'a'",
    ),
    "padding half": (
        lambda: nplstm.pad_sequence([X.astype(int)], padding_value=0.5),
        "padding_value: 0.5 does not fit into int64 data",
    ),
    "padding range": (
        lambda: nplstm.pad_sequence([X.astype(np.uint8)], padding_value=300),
        "padding_value: 300 does not fit into uint8 data",
    ),
    "no rows": (
        lambda: nplstm.PackedSequence(np.array(3.0), [1]),
        r"data: expected shape \(N, \.\.\.\), got \(\)",
    ),
    "huge": (
        lambda: nplstm.pack_padded_sequence(X, np.array([2**63, 2, 1], np.uint64)),
        "lengths: expected sizes of arrays, got 9223372036854775808",
    ),
    "side list": (lambda: nplstm.pad_sequence([X], padding_side=["left"]), "padding_side: expected"),
    "replaced data": (
        lambda: nplstm.pack_sequence([np.zeros(3)])._replace(data=np.zeros(2)),
        "batch_sizes: expected positive sizes that never increase and add up to the 2 rows",
    ),
    "batch_first text": (lambda: nplstm.pack_padded_sequence(X, [4, 2, 1], "no"), "batch_first: expected True or"),
    "other side": (
        lambda: nplstm.pad_sequence([X], padding_side="top"),
        "padding_side: expected 'right' or 'left'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_named(name):
    call, message = REFUSED[name]
    with pytest.raises(nplstm.NplstmError, match=message):
        call()


def test_a_subclass_is_a_packed_sequence():
    class Own(nplstm.PackedSequence):
        pass

    packed = nplstm.pack_sequence([np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)])
    lstm = nplstm.LSTM(2, 3, rng=0)
    assert np.array_equal(lstm(Own(*packed))[0].data, lstm(packed)[0].data)
