"""What a source may send, and what it may not: everything wrong is a DataError that names it."""

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.streaming.messages import (
    Ending,
    Opening,
    PatternBatch,
    PositionBatch,
    messages_of,
)
from ptychopinn_plugin.streaming.sources.zeromq import decode_parts, encode_parts

NAMES = (
    *('patterns', 'indexes', 'positions_m', 'positions_px', 'position_indexes', 'n_patterns'),
    *('probe', 'bad_pixels', 'name', 'pixel_height_m', 'photon_energy_eV', 'end', 'other'),
)


def test_a_message_may_hold_everything() -> None:
    values = {
        'probe': np.ones((2, 4, 4), np.complex64),
        'bad_pixels': np.eye(4),
        'pixel_height_m': 1e-8,
        'detector_distance_m': 0.0,
        'n_patterns': 7,
        'name': 'a scan',
        'patterns': np.arange(32, dtype=np.uint16).reshape(2, 4, 4),
        'indexes': [3, 5],
        'positions_m': [[1.0, 2.0], [3.0, 4.0]],
        'end': True,
        'other': {'of': 'no interest'},
    }
    opening, positions, patterns, ending = messages_of(values)
    assert isinstance(opening, Opening)
    assert isinstance(positions, PositionBatch)
    assert isinstance(patterns, PatternBatch)
    assert (opening.n_patterns, opening.name) == (7, 'a scan')
    assert opening.bad_pixels.sum() == 4
    # Programs write zero where nobody has filled a value in.
    assert (opening.geometry.pixel_height_m, opening.geometry.detector_distance_m) == (1e-8, None)
    assert (positions.unit, positions.positions.tolist()) == ('m', [[1, 2], [3, 4]])
    assert positions.indexes.tolist() == patterns.indexes.tolist() == [3, 5]
    assert patterns.patterns.dtype == np.uint16
    assert ending == Ending(7)


def test_one_pattern_needs_no_axis_for_it() -> None:
    (batch,) = messages_of({'patterns': np.ones((4, 5)), 'indexes': 2})
    assert isinstance(batch, PatternBatch)
    assert batch.patterns.shape == (1, 4, 5)
    assert batch.indexes.tolist() == [2]


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'patterns': np.ones(4), 'indexes': [0]}, r'\(n_patterns, height, width\)'),
        ({'patterns': np.ones((1, 2, 2))}, 'indexes is missing'),
        ({'patterns': np.ones((2, 2, 2)), 'indexes': [0]}, 'must have 2 values; it has 1'),
        ({'patterns': np.ones((1, 2, 2)), 'indexes': [-1]}, 'must not be negative'),
        ({'patterns': np.ones((1, 2, 2)), 'indexes': [0.5]}, 'indexes must hold'),
        ({'patterns': [['a']], 'indexes': [0]}, 'patterns must hold numbers'),
        ({'patterns': [[1, 2], [3]], 'indexes': [0]}, 'patterns must hold numbers'),
        ({'positions_m': [[0, 0]], 'positions_px': [[0, 0]], 'indexes': [0]}, 'one unit'),
        ({'positions_px': [[1, 2, 3]], 'indexes': [0]}, r'\(n_positions, 2\)'),
        ({'n_patterns': -4}, 'n_patterns must be a whole number'),
        ({'n_patterns': float('inf')}, 'n_patterns must be a whole number'),
        ({'pixel_height_m': float('nan')}, 'pixel_height_m must be a number'),
        ({'pixel_height_m': [1, 2]}, 'pixel_height_m must be a number'),
        ({'end': [[1], [2, 3]]}, 'end must hold'),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        messages_of(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_values_are_read_or_refused(values: dict[str, Any]) -> None:
    with suppress(DataError):
        messages_of(values)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({'name': JSON, 'dtype': JSON | st.just('<u2'), 'shape': JSON}),
        max_size=2,
    )
    | JSON,
    st.dictionaries(st.text(max_size=5), JSON) | JSON,
    st.lists(st.binary(max_size=16), max_size=2),
)
def test_any_parts_are_read_or_refused(arrays: Any, values: Any, data: list[bytes]) -> None:
    with suppress(DataError):
        decode_parts([json.dumps({'arrays': arrays, 'values': values}).encode(), *data])


def test_parts_hold_what_was_sent() -> None:
    values = {'patterns': np.arange(24, dtype='>u4').reshape(2, 3, 4)[:, ::-1], 'n_patterns': 3}
    found = decode_parts(encode_parts(values))
    np.testing.assert_array_equal(found['patterns'], values['patterns'])
    assert found['n_patterns'] == 3
