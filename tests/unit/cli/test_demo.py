"""`demo` and its report, with a backend that computes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.cli.report import Picture, Report, write_report

QUICK = ('--training-patterns', 60, '--test-patterns', 60, '--refine', 2)


def test_demo_leaves_every_file(run: Any, backend: Any, tmp_path: Path) -> None:
    output = tmp_path / 'demo'
    done = run('demo', '-o', output, *QUICK, '--json')
    assert done.code == 0, done.err
    assert sorted(json.loads(done.out)['files']) == sorted(p.name for p in output.iterdir())
    results = json.loads((output / 'metrics.json').read_text())['results']
    assert list(results) == ['network', 'network_and_sweeps', 'sweeps_from_flat']
    for row in results.values():
        assert row['patterns_per_second'] == pytest.approx(60 / row['seconds'])
        assert row['evaluation']['frc']['correlation']
    page = (output / 'report.html').read_text()
    for title in ('network alone', 'network + 2 sweeps', 'flat start + 2 sweeps'):
        assert title in page
    assert page.count('src="data:image/png;base64,') == 4


def test_report_is_self_contained_and_escaped(tmp_path: Path) -> None:
    picture = tmp_path / 'a.png'
    picture.write_bytes(b'png')
    row = {
        'title': '<b>',
        'amplitude_ssim': 0.5,
        'phase_ssim': 0.5,
        'frc_0.5': 0.5,
        'amplitude_residual': 0.1,
        'seconds': 1.0,
        'patterns_per_second': None,
    }
    evil = '<script>alert("&")</script>'
    shown = Picture(picture, evil)
    report = Report(evil, evil, [row], shown, {evil: shown}, {evil: {evil: evil}}, {evil: {}})
    write_report(tmp_path / 'report.html', report)
    page = (tmp_path / 'report.html').read_text()
    assert '<script' not in page
    assert '<b>' not in page
    assert '&lt;b&gt;' in page
    assert '>n/a<' in page
    assert 'http://' not in page
    assert 'https://' not in page
    assert 'prefers-color-scheme: dark' in page
