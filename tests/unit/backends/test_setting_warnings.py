"""Settings that have no effect are named before a run."""

from typing import Any

import pytest

from ptychopinn_plugin.backends.common.setting_warnings import warn_of_settings
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate


@pytest.mark.parametrize(
    ('settings', 'iterations', 'is_flat', 'words'),
    [
        ({}, 0, True, 'the object stays flat'),
        ({'position_scale': True}, 30, False, '--refine-position-scale has no effect'),
        ({'position_scale': True, 'positions': True}, 30, False, ''),
        ({'probe_radius': 9.0}, 30, False, '--probe-radius has no effect'),
        ({'object_type': 'phase'}, 0, False, '--object-type phase has no effect'),
        ({'object_type': 'phase'}, 30, False, ''),
        ({'object_type': 'complex'}, 0, False, ''),
    ],
)
def test_settings_that_change_nothing_are_named(
    settings: dict[str, Any],
    iterations: int,
    is_flat: bool,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scan = simulate(SimulationConfig(size=32, rows=3, columns=3))
    warn_of_settings(scan, RefinementConfig(**settings), iterations=iterations, is_flat=is_flat)
    assert words in caplog.text
    assert bool(words) == bool(caplog.records)
