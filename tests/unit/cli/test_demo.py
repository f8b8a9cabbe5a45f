"""`demo`, with a backend that computes nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.cli import demo as module
from ptychopinn_plugin.data import load_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

QUICK = ('--training-patterns', 60, '--test-patterns', 60, '--refine', 2)


def test_demo_leaves_every_file(run: Any, backend: Any, tmp_path: Path) -> None:
    output = tmp_path / 'demo'
    done = run('demo', '-o', output, *QUICK, '--json')
    assert done.code == 0, done.err
    assert sorted(json.loads(done.out)['files']) == sorted(p.name for p in output.iterdir())
    values = json.loads((output / 'metrics.json').read_text())
    assert values['seed'] == 1
    assert values['machine']['platform']
    assert values['machine']['cpu']['cores'] >= 1
    results = values['results']
    assert list(results) == [
        'built_in',
        'network',
        'network_and_iterations',
        'iterations_from_flat',
    ]
    for row in results.values():
        assert row['patterns_per_second'] == pytest.approx(60 / row['seconds'])
        assert row['evaluation']['frc']['correlation']
        assert row['amplitude_residual'] == 0.125
    alone = json.loads((output / 'metrics.json').read_text())['single_shots']
    assert set(alone) == {'planned', 'built_in', 'iterations_from_flat'}
    page = (output / 'report.html').read_text()
    for title in (
        'built-in model',
        'network alone',
        'network + 2 iterations',
        'flat start + 2 iterations',
    ):
        assert title in page
    assert page.count('src="data:image/png;base64,') == 5


def test_plain_lines_and_a_line_a_stage(run: Any, backend: Any, tmp_path: Path) -> None:
    done = run('demo', '-o', tmp_path / 'demo', *QUICK)
    assert done.code == 0
    assert [line.split()[0] for line in done.err.splitlines()] == [
        'Reconstructing',
        'Simulating',
        'Training',
        'Reconstructing',
    ]
    alone, heads, *rows, ended, following = done.out.splitlines()
    assert alone.startswith(
        'patterns one by one, amplitude SSIM: as planned, best of three starts '
    )
    assert ' '.join(heads.split()) == 'amplitude SSIM phase SSIM FRC-0.5 seconds patterns/s'
    assert len({len(line) for line in (heads, *rows)}) == 1
    assert [row.split('  ')[0] for row in rows] == [
        'built-in model, no training',
        'network alone',
        'network + 2 iterations',
        'flat start + 2 iterations',
    ]
    assert str(tmp_path / 'demo' / 'report.html') in ended
    assert following.startswith('next: ')


def test_scans_are_left_to_repeat_it_by_hand(run: Any, backend: Any, tmp_path: Path) -> None:
    assert run('demo', '-o', tmp_path, *QUICK, '--seed', 4).code == 0
    for name, seed in (('train-simulated.npz', 4), ('test-simulated.npz', 5)):
        scan = load_scan(tmp_path / name)
        expected = simulate(SimulationConfig(seed=seed, n_positions=60))
        np.testing.assert_array_equal(scan.patterns, expected.patterns)
        np.testing.assert_allclose(scan.positions_px, expected.positions_px)
        assert scan.object_ is not None


def test_setting_that_cannot_be_leaves_nothing(run: Any, backend: Any, tmp_path: Path) -> None:
    done = run('demo', '-o', tmp_path / 'demo', '--max-minutes', 0)
    assert 'max_minutes must be at least 0.01; got 0.0' in done.error()
    assert not (tmp_path / 'demo').exists()


@pytest.mark.parametrize(
    ('hybrid', 'flat', 'words'),
    [
        (0.90, 0.70, 'the start from the network ends ahead: phase SSIM 0.90 with the network'),
        (0.46, 0.79, 'the flat start ends ahead: phase SSIM 0.46 with the network'),
        (0.94, 0.95, 'both starts end level'),
    ],
)
def test_report_says_what_was_measured(hybrid: float, flat: float, words: str) -> None:
    results = {
        'network_and_iterations': {'phase_ssim': hybrid, 'amplitude_ssim': 0.9},
        'iterations_from_flat': {'phase_ssim': flat, 'amplitude_ssim': 0.9},
    }
    assert words in module._verdict(results)
