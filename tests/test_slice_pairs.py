"""Slices matched by position: by hand, against the narcomey2018 program, and properties of every match."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests import golden
from tf_mrsr.errors import DataError
from tf_mrsr.slice_pairs import match_slices, neighbour_triples


def along_z(*z):
    return np.array([[0.0, 0.0, value] for value in z])


def test_nearest_by_hand():
    pairs = match_slices(along_z(0.2, 3.0, 6.4), along_z(0, 1.5, 3, 4.5, 6, 7.5))
    np.testing.assert_array_equal(pairs.low_res, [0, 1, 2])
    np.testing.assert_array_equal(pairs.high_res, [0, 2, 4])
    np.testing.assert_allclose(pairs.distances_mm, [0.2, 0, 0.4], atol=1e-12)


def test_distance_is_in_space():
    pairs = match_slices(np.zeros((1, 3)), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 6.0]]))
    assert pairs.high_res[0] == 0
    assert pairs.distances_mm[0] == 5


def test_no_slice_is_used_twice_and_none_before_the_last_match():
    """The second thick slice is nearest to thin slice 1 as well, which is used; 0 is nearer than 2 but passed over."""
    pairs = match_slices(along_z(2, 2.1), along_z(0.5, 2, 4))
    np.testing.assert_array_equal(pairs.high_res, [1, 2])


def test_window():
    thin = along_z(*np.arange(30.0))
    assert match_slices(along_z(20), thin).high_res[0] == 9
    assert match_slices(along_z(20), thin, window=25).high_res[0] == 20


@pytest.mark.parametrize(
    ("low_res", "high_res", "words"),
    [
        (along_z(0, 3, 6), along_z(0, 3), "left for low-resolution slice 3 of 3: the last of 2 is matched"),
        (along_z(0, 3), along_z(3, 0), "the same direction"),
        (np.zeros((0, 3)), along_z(0), r"low-resolution positions must be .* got \(0, 3\)"),
        (along_z(0), np.zeros(3), "high-resolution positions must be"),
        (along_z(0), along_z(0, np.nan), "high-resolution series has slices without a finite position"),
    ],
)
def test_refused(low_res, high_res, words):
    with pytest.raises(DataError, match=words):
        match_slices(low_res, high_res)


@settings(max_examples=60)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(-99, 99)),
    arrays.arrays(np.float64, st.tuples(st.integers(80, 90), st.just(3)), elements=st.floats(-99, 99)),
)
def test_every_match_is_the_nearest_of_its_window(low_res, high_res):
    pairs = match_slices(low_res, high_res)
    np.testing.assert_array_equal(pairs.low_res, np.arange(len(low_res)))
    first = 0
    for low, high, distance in zip(*pairs, strict=True):
        assert first <= high < first + 10
        to_window = np.linalg.norm(high_res[first : first + 10] - low_res[low], axis=1)
        assert distance == to_window.min()
        first = high + 1


def test_triples_shift_at_the_edges():
    triples = neighbour_triples([0, 1, 5, 6], 7)
    np.testing.assert_array_equal(triples.slices, [[0, 1, 2], [0, 1, 2], [4, 5, 6], [4, 5, 6]])
    np.testing.assert_array_equal(triples.channel, [0, 1, 1, 2])


def test_triples_of_the_program_shift_at_the_last_match():
    np.testing.assert_array_equal(neighbour_triples([2, 4], 9).slices, [[1, 2, 3], [3, 4, 5]])
    triples = neighbour_triples([2, 4], 9, shift_at_last_match=True)
    np.testing.assert_array_equal(triples.slices, [[1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(triples.channel, [1, 2])
    assert neighbour_triples([1], 9, shift_at_last_match=True).slices.tolist() == [[0, 1, 2]]


@given(st.lists(st.integers(0, 11), min_size=1), st.booleans())
def test_every_triple_holds_its_slice(matched, as_program):
    slices, channel = neighbour_triples(matched, 12, shift_at_last_match=as_program)
    np.testing.assert_array_equal(slices[np.arange(len(matched)), channel], matched)
    np.testing.assert_array_equal(np.diff(slices), 1)
    assert slices.min() >= 0
    assert slices.max() <= 11


@pytest.mark.parametrize(
    ("matched", "count", "words"),
    [([0], 2, "has 2 slices"), ([3], 3, "slice 3 is not in"), ([-1], 3, "slice -1 is not in")],
)
def test_triples_refused(matched, count, words):
    with pytest.raises(DataError, match=words):
        neighbour_triples(matched, count)


@golden.needs_golden
@pytest.mark.parametrize("model", ["data_m1", "data_m2"])
def test_matching_of_the_program(model):
    """Where the program stops with an exception of Python, there is an error."""
    cases = golden.case(model, golden.NARCOMEY)["match_dcm"]
    assert len(cases) == 10
    for case in cases:
        low_res, high_res = np.array(case["lr_positions"]), np.array(case["hr_positions"])
        if case["pairs"] is None:
            with pytest.raises(DataError, match="no high-resolution slice is left"):
                match_slices(low_res, high_res)
        else:
            pairs = match_slices(low_res, high_res)
            np.testing.assert_array_equal(np.stack([pairs.low_res, pairs.high_res], 1), case["pairs"], case["case"])


@golden.needs_golden
def test_triples_of_the_program():
    for case in golden.case("data_m2", golden.NARCOMEY)["triples"]:
        matched, count, expected = case["hr_indices"], case["n_hr_slices"], case["triples_written"]
        if count < 3:
            with pytest.raises(DataError, match="a slice and its neighbours need 3"):
                neighbour_triples(matched, count, shift_at_last_match=True)
        elif not expected:
            # Matches out of order, which stop the program, do not come out of the matching.
            assert matched != sorted(matched)
        else:
            triples = neighbour_triples(matched, count, shift_at_last_match=True).slices
            if matched == [1]:
                # The program begins with the series' last slice, which is not a neighbour.
                assert expected == [[count - 1, 0, 1]]
                expected = [[0, 1, 2]]
            np.testing.assert_array_equal(triples, expected)
