"""Scans that are reconstructed while they run, from senders in processes of their own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin import api
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.data import Scan, load_scan, read_reconstruction, write_scan
from ptychopinn_plugin.evaluation import evaluate
from ptychopinn_plugin.model_file import write_model

COMMAND = (sys.executable, '-m', 'ptychopinn_plugin')
FAST = ('--device', 'cpu', '--refine', '10', '--update-seconds', '0')


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a command in a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def scan_file(tmp_path: Path, tiny_scan: Scan) -> Path:
    write_scan(tmp_path / 'scan.npz', tiny_scan)
    return tmp_path / 'scan.npz'


@pytest.fixture
def stream(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend_name: str
) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that streams with --json and returns what each line holds."""
    monkeypatch.setenv('PTYCHOPINN_BACKEND', backend_name)

    def run(*arguments: object) -> list[dict[str, Any]]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(['stream', *map(str, arguments), '--json'])
        captured = capfd.readouterr()
        assert ended.value.code == 0, captured.err
        return [json.loads(line) for line in captured.out.splitlines()]

    return run


@pytest.fixture
def model_file(tmp_path: Path, tiny_model: Any) -> Path:
    write_model(tmp_path / 'wts.h5.zip', tiny_model.model)
    return tmp_path / 'wts.h5.zip'


def test_the_object_at_the_end_is_that_of_reconstruct(
    tmp_path: Path, scan_file: Path, stream: Any, start: Any, backend_name: str
) -> None:
    """Without a model: shuffled, positions apart, through a folder."""
    output, incoming = tmp_path / 'live', tmp_path / 'in'
    options = ('--rate', 40, '--batch', 4, '--shuffle', 20, '--separate', '--delay', 0)
    start('replay', scan_file, '--to', f'folder:{incoming}', *options)
    begun, *updates, end = stream('--source', f'folder:{incoming}', '-o', output, *FAST)
    assert begun == {'event': 'start', 'sources': [f'folder:{incoming}']}
    assert all(line['event'] == 'update' for line in updates)
    assert (end['event'], end['stream']['ended']) == ('end', 'complete')
    assert end['stream']['patterns']['received'] == 80
    assert end['stream']['patterns']['lost'] == 0
    settings = {'refinement': api.RefinementConfig(iterations=10)}
    settings['inference'] = api.InferenceConfig(device='cpu')
    expected = api.reconstruct(None, load_scan(scan_file), backend=backend_name, **settings)
    found = read_reconstruction(output / 'reconstruction.npz')
    np.testing.assert_array_equal(found.origin_px, expected.origin_px)
    np.testing.assert_allclose(found.object_, expected.object_, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.pattern_indexes, np.arange(80))
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['patterns'] == end['stream']['patterns']
    for name in end['files']:
        assert (output / name).stat().st_size > 0


def test_the_probe_that_was_sent_is_left_out_where_wanted(
    tmp_path: Path, scan_file: Path, stream: Any, start: Any
) -> None:
    """The scan that is kept holds none then, so that one is made of its patterns again."""
    output, incoming = tmp_path / 'live', tmp_path / 'in'
    start('replay', scan_file, '--to', f'folder:{incoming}', '--delay', 0)
    options = ('--probe-from-patterns', '--refine', 1, '--device', 'cpu')
    *_, end = stream('--source', f'folder:{incoming}', '-o', output, *options)
    assert end['metrics']['probe_known'] is False
    assert load_scan(output / 'scan.npz').probe_origin == 'patterns'


def test_a_trained_network_shows_the_object_while_it_grows(
    tmp_path: Path, scan_file: Path, model_file: Path, stream: Any, start: Any, tiny_scan: Scan
) -> None:
    output, growing = tmp_path / 'live', tmp_path / 'growing.h5'
    start('replay', scan_file, '--to', growing, '--rate', 20, '--delay', 1)
    options = ('--update-patterns', 20, '--update-seconds', 0, '--no-final', '--device', 'cpu')
    _, *updates, end = stream(model_file, '--source', growing, '-o', output, *options)
    # Where writing takes long, several parts are written together.
    numbers = [line['patterns'] for line in updates]
    assert (numbers[0], numbers[-1]) == (20, 80)
    areas = [np.prod(line['object_shape_px']) for line in updates]
    assert areas == sorted(areas)
    assert areas[0] < 0.6 * areas[-1]
    assert (end['stream']['shown'], end['stream']['updates']) == (80, 4)
    assert end['stream']['written'] == len(updates)
    assert 0 < end['stream']['latency_to_object']['p50_s'] <= end['stream']['seconds']
    found = read_reconstruction(output / 'product.h5')
    alone = api.reconstruct(
        model_file,
        tiny_scan,
        inference=api.InferenceConfig(device='cpu'),
        refinement=api.RefinementConfig(iterations=0),
    )
    # Parts are predicted without what lies beside them: nearly as good as all at once.
    grown, whole = (evaluate(each, tiny_scan).phase.ssim for each in (found, alone))
    assert grown > 0.8 * whole
    assert whole > 0.3
    assert not (output / 'reconstruction.npz').exists()


def test_ctrl_c_ends_it_with_what_is_there(
    tmp_path: Path, scan_file: Path, start: Any, backend_name: str
) -> None:
    """The sender goes on; the object is that of the patterns that have come."""
    if backend_name != 'pytorch':
        pytest.skip('Signals are the same with every framework.')
    output, growing = tmp_path / 'live', tmp_path / 'growing.h5'
    start('replay', scan_file, '--to', growing, '--rate', 2, '--delay', 0)
    process = start('stream', '--source', growing, '-o', output, '--backend', 'pytorch', *FAST)
    deadline = time.monotonic() + 120
    while not (output / 'product.h5').exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    # A reader sees a whole file at any moment.
    shown = len(read_reconstruction(output / 'product.h5').positions_px)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert 'it was interrupted' in out
    result = read_reconstruction(output / 'reconstruction.npz')
    kept = load_scan(output / 'scan.npz')
    assert 16 <= shown <= len(kept) < 80
    assert len(result.positions_px) == len(kept)
    np.testing.assert_array_equal(kept.patterns, load_scan(scan_file).patterns[: len(kept)])


def test_another_run_does_not_share_the_folder(
    tmp_path: Path, scan_file: Path, start: Any, backend_name: str
) -> None:
    if backend_name != 'pytorch':
        pytest.skip('Locks are the same with every framework.')
    output = tmp_path / 'live'
    first = start('stream', '--source', f'folder:{tmp_path / "in"}', '-o', output, *FAST)
    assert first.stderr.readline().startswith('Receiving from folder:')
    second = start('stream', '--source', f'folder:{tmp_path / "in"}', '-o', output, *FAST)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert 'is being written to by another run' in err
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=60)
    # Nothing has come, of which something could be made: it ends as every command does.
    assert first.returncode == 128 + signal.SIGTERM, err
    assert 'before any pattern' in err
    assert not output.exists()
