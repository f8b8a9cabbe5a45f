"""The model that comes with the package: on the command line, without a model of one's own."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.data import Scan, read_reconstruction, write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.pretraining.probes import curved_probe

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend_name: str
) -> Call:
    """Return a function that runs a command; it returns the exit code and what was printed."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        captured = capfd.readouterr()
        return int(str(ended.value.code)), captured.out, captured.err

    return run


@pytest.fixture(scope='module')
def sparse() -> Scan:
    """Return the benchmark's scan, thinned to steps of 22 px: data alone leave much open."""
    dense = simulate(SimulationConfig(seed=9, n_positions=1024))
    index = np.arange(1024).reshape(32, 32)
    return dense.subset(index[:16:4, :16:4].ravel())


def test_a_scan_alone_is_reconstructed_without_a_model(
    call: Call, sparse: Scan, tmp_path: Path
) -> None:
    """It comes nearer to the truth than as many iterations without it."""
    write_scan(tmp_path / 'scan.npz', sparse)
    found = {}
    for name, options in {'prior': (), 'alone': ('--prior-passes', 0, '--refine', 120)}.items():
        folder = tmp_path / name
        code, out, err = call(
            'reconstruct',
            tmp_path / 'scan.npz',
            '-o',
            folder,
            '--device',
            'cpu',
            *options,
            '--json',
        )
        assert code == 0, err
        metrics = json.loads(out)['metrics']
        assert len(metrics['likelihoods']) == 121
        found[name] = [metrics['evaluation'][part]['ssim'] for part in ('phase', 'amplitude')]
        assert (folder / 'reconstruction.png').stat().st_size > 0
    gains = np.subtract(found['prior'], found['alone'])
    assert gains[0] > 0.1
    assert gains[1] > 0.02


def test_without_iterations_the_model_gives_an_object(call: Call, tmp_path: Path) -> None:
    """Data decide this bright, dense scan, and nothing but a pass is left of the plan."""
    scan = simulate(SimulationConfig(size=32, rows=6, columns=6, step_px=3.0, pupil_radius=0.2))
    write_scan(tmp_path / 'scan.npz', scan)
    given = ('reconstruct', tmp_path / 'scan.npz', '-o', tmp_path / 'out', '--refine', 0)
    code, out, err = call(*given)
    assert code == 0, err
    assert 'plan: 1 pass of the learned prior with 10 iterations before it' in out
    assert np.ptp(np.abs(read_reconstruction(tmp_path / 'out' / 'product.h5').object_)) > 0.1
    code, out, err = call(*given, '--prior-passes', 0)
    assert code == 0, err
    assert 'the object stays flat' in err
    assert 'Standard deviation' not in out


def test_a_limit_of_time_is_kept_and_said(
    call: Call, sparse: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan follows the overlap, and the clock ends it."""
    create_backend = api.create_backend

    def with_slow_clock(name: str) -> Any:
        backend: Any = create_backend(name)
        # Each look at the clock is a hundredth of a second later.
        backend.clock = itertools.count(0.0, 0.01).__next__
        return backend

    monkeypatch.setattr(api, 'create_backend', with_slow_clock)
    write_scan(tmp_path / 'scan.npz', sparse)
    given = (tmp_path / 'scan.npz', '-o', tmp_path / 'r', '--device', 'cpu', '--max-seconds', 0.4)
    code, out, err = call('reconstruct', *given)
    assert code == 0, err
    assert 'plan: 10 passes of the learned prior' in out
    assert 'as illuminations hardly touch' in out
    assert 'the limit of 0.4 s ended them after' in out
    metrics = json.loads((tmp_path / 'r' / 'metrics.json').read_text())
    course = metrics['provenance']['course']
    assert course['ended'] == 'time'
    assert course['planned'] == [10] * 10 + [20]
    assert 0 < sum(course['done']) < 120
    assert len(metrics['likelihoods']) == sum(course['done']) + 1


def test_the_command_line_and_python_give_the_same(
    call: Call, sparse: Scan, tmp_path: Path, backend_name: str
) -> None:
    write_scan(tmp_path / 'scan.npz', sparse)
    arguments = ('reconstruct', 'built-in', tmp_path / 'scan.npz', '-o', tmp_path, '--refine', 2)
    assert call(*arguments, '--prior-passes', 1)[0] == 0
    found = api.reconstruct(
        None,
        tmp_path / 'scan.npz',
        inference=api.InferenceConfig(prior_passes=1),
        refinement=api.RefinementConfig(iterations=2),
        backend=backend_name,
    )
    again = read_reconstruction(tmp_path / 'reconstruction.npz')
    np.testing.assert_allclose(again.object_, found.object_, atol=1e-5)


def test_patterns_that_share_nothing_are_each_reconstructed_alone(
    call: Call, tmp_path: Path, backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = SimulationConfig(rows=2, columns=3, step_px=70.0, jitter_px=0.0)
    scan = simulate(config)
    write_scan(tmp_path / 'apart.npz', scan)
    results = []
    for more in ((), ('--single-shot',)):
        caplog.clear()
        code, out, err = call(
            *('reconstruct', tmp_path / 'apart.npz', '-o', tmp_path / 'a', '--json', *more)
        )
        assert code == 0, err
        assert 'Each pattern is reconstructed alone, at its own position.' in err
        assert ('no two illuminations touch' in err + caplog.text) == (not more)
        metrics = json.loads(out)['metrics']
        assert metrics['patterns'] == 6
        assert metrics['provenance']['course']['reason'] == 'as each pattern stands alone'
        # The object in the file lies where that of the patterns does.
        assert metrics['evaluation'] is not None
        results.append(read_reconstruction(tmp_path / 'a' / 'reconstruction.npz').object_)
    np.testing.assert_array_equal(*results)
    far = dataclasses.replace(scan, positions_px=2 * scan.positions_px, object_=None)
    write_scan(tmp_path / 'far.npz', far)
    code, _, err = call('reconstruct', tmp_path / 'far.npz', '-o', tmp_path / 'a')
    assert code == 2
    assert 'illuminations must overlap' in err
    assert '--single-shot' in err
    few = api.RefinementConfig(iterations=1)
    assert api.refine(scan, few, backend=backend_name, device='cpu').is_single_shot
    none = api.InferenceConfig(prior_passes=0)
    assert api.reconstruct(
        None, scan, inference=none, refinement=few, backend=backend_name
    ).is_single_shot


def test_one_pattern_without_a_position_is_a_scan(call: Call, tmp_path: Path, sparse: Scan) -> None:
    np.save(tmp_path / 'one.npy', sparse.patterns[0])
    np.save(tmp_path / 'probe.npy', sparse.probe)
    code, out, err = call(
        *('reconstruct', tmp_path / 'one.npy', '-o', tmp_path / 'a', '--single-shot', '--json'),
        *('--probe-from', tmp_path / 'probe.npy', '--domain', 'counts', '--prior-passes', 1),
    )
    assert code == 0, err
    assert 'No positions were read; each pattern stands alone.' in err
    assert json.loads(out)['metrics']['patterns'] == 1


def test_a_model_in_the_place_of_a_scan_is_told(call: Call, tmp_path: Path, sparse: Scan) -> None:
    model: Any = api.open_model('built-in')
    api.save_model(tmp_path / 'model.zip', model)
    write_scan(tmp_path / 'scan.npz', sparse)
    code, _, err = call('reconstruct', tmp_path / 'model.zip', '-o', tmp_path / 'a')
    assert code == 2
    assert 'the scan to reconstruct is missing' in err
    code, _, err = call(
        'reconstruct', tmp_path / 'scan.npz', tmp_path / 'model.zip', '-o', tmp_path / 'a'
    )
    assert code == 2
    assert 'the scan comes last' in err
    code, _, err = call(
        'train', tmp_path / 'scan.npz', '--base-model', tmp_path / 'model.zip', '-o', tmp_path / 'b'
    )
    assert code == 2
    assert 'cannot be fine-tuned' in err


def test_a_scan_of_other_patterns_than_squares_is_judged_as_it_was_reconstructed(
    call: Call, tmp_path: Path, sparse: Scan
) -> None:
    narrow = dataclasses.replace(
        sparse,
        patterns=sparse.patterns[:, 8:-8],
        probe=sparse.probe[:, 8:-8],
        bad_pixels=None,
    )
    write_scan(tmp_path / 'scan.npz', narrow)
    arguments = ('reconstruct', tmp_path / 'scan.npz', '-o', tmp_path / 'a', '--prior-passes', 0)
    code, out, err = call(*arguments, '--refine', 5, '--json')
    assert code == 0, err
    at_once = json.loads(out)['metrics']['evaluation']['amplitude']['ssim']
    code, out, err = call(
        'evaluate', tmp_path / 'a' / 'reconstruction.npz', tmp_path / 'scan.npz', '--json'
    )
    assert code == 0, err
    assert json.loads(out)['amplitude']['ssim'] == pytest.approx(at_once, abs=1e-6)


def test_a_table_of_patterns_alone_is_not_judged_as_a_picture(
    call: Call, tmp_path: Path, sparse: Scan
) -> None:
    write_scan(tmp_path / 'scan.npz', sparse)
    arguments = ('reconstruct', tmp_path / 'scan.npz', '-o', tmp_path / 'a', '--single-shot')
    assert call(*arguments, '--prior-passes', 0, '--refine', 1)[0] == 0
    code, _, err = call('evaluate', tmp_path / 'a' / 'reconstruction.npz', tmp_path / 'scan.npz')
    assert code == 2
    assert 'is a table of patterns' in err


def test_a_beam_that_is_its_own_twin_is_told_of(call: Call, tmp_path: Path) -> None:
    """A single pattern fits the object and its twin alike: nobody gets such a picture unsaid."""
    config = SimulationConfig(size=32, path_kind='raster', rows=2, columns=2, step_px=32.0)
    for curvature, is_told in ((0.0, True), (0.6, False)):
        scan = simulate(config, probe=curved_probe(32, 12.0, 0.15, curvature))
        write_scan(tmp_path / 'scan.npz', scan)
        folder = tmp_path / str(curvature)
        code, out, err = call(
            *('reconstruct', tmp_path / 'scan.npz', '-o', folder, '--single-shot'),
            *('--refine', 2, '--device', 'cpu'),
        )
        assert code == 0, err
        assert ('an object and its twin' in err) == is_told
        assert ('a beam that is its own twin' in out) == is_told
        course = json.loads((folder / 'metrics.json').read_text())['provenance']['course']
        assert len(course['planned']) == (1 if is_told else 11)


def test_the_word_for_the_built_in_model_is_known_everywhere(
    call: Call, tmp_path: Path, sparse: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / 'scan.npz', sparse)
    code, _, err = call('train', 'scan.npz', '--base-model', 'built-in', '-o', 'a')
    assert (code, 'cannot be fine-tuned' in err) == (2, True)
    code, _, err = call('reconstruct', 'built-in', '-o', 'a')
    assert (code, 'the scan to reconstruct is missing' in err) == (2, True)
