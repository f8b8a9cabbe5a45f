"""`ptychopinn bench`: every rate, beside its floor."""

import json

import pytest

from ptychopinn_plugin.bench import BenchOptions, compare, run_bench


def test_every_rate_is_measured() -> None:
    """With one backend: all are measured through the same protocol, and compiling takes long."""
    pytest.importorskip('torch')
    options = BenchOptions(
        sizes=(32,), backends=('pytorch',), patterns=32, rounds=2, iterations=1, starts=0
    )
    report = json.loads(json.dumps(run_bench(options)))
    rows = {row['what']: row for row in report['rows']}
    assert list(rows) == [
        'training step',
        'prediction',
        'prediction + stitching',
        'iteration',
    ]
    for row in rows.values():
        assert row['value'] > 0
        assert row['share'] > 0
        assert row['noise'] >= 0
        assert row['value'] / row['floor'] == row['share']
    # In each round stitching is added to the same prediction.
    assert rows['prediction + stitching']['value'] < rows['prediction']['value']
    assert rows['prediction + stitching']['floor'] < rows['prediction']['floor']
    compared, worse = compare(report, report)
    assert len(compared) == len(rows)
    assert worse == []
