"""Results are complete, or not there at all."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from ptychopinn_plugin.cli.outputs import staged_outputs, to_json, write_history, write_json
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.lock import locked_folder


def test_files_arrive_together(tmp_path: Path) -> None:
    folder = tmp_path / 'a' / 'b'
    with staged_outputs(folder, ['x', 'y']) as stage:
        (stage / 'x').write_text('new')
        assert not (folder / 'x').exists()
        (stage / 'y').write_text('new')
    assert sorted(path.name for path in folder.iterdir()) == ['x', 'y']


def _fail(folder: Path, *names: str, rescue: str | None = None) -> None:
    """Write files, and then find that another one cannot be written."""
    with staged_outputs(folder, names, rescue=rescue) as stage:
        for name in names:
            (stage / name).write_text('new')
        raise OutputError('The plot cannot be written.')


def test_a_failure_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match='The plot'):
        _fail(tmp_path / 'a' / 'b', 'x')
    assert list(tmp_path.iterdir()) == []


def test_former_results_survive_a_failure(tmp_path: Path) -> None:
    (tmp_path / 'x').write_text('old')
    with pytest.raises(OutputError, match='The plot'):
        _fail(tmp_path, 'x')
    assert (tmp_path / 'x').read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def test_what_took_long_is_rescued(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'model').write_text('old')
    with pytest.raises(OutputError, match='The plot'):
        _fail(tmp_path, 'model', rescue='model')
    assert (tmp_path / 'model').read_text() == 'old'
    assert (tmp_path / 'rescued-model').read_text() == 'new'
    assert 'rescued-model' in capfd.readouterr().err


def test_an_error_names_the_folder_of_the_user(tmp_path: Path) -> None:
    def write() -> None:
        with staged_outputs(tmp_path, ['x']) as stage:
            raise OutputError(f'Cannot write {stage / "x"}: the disk is full.')

    with pytest.raises(OutputError, match='disk is full') as raised:
        write()
    assert str(tmp_path / 'x') in str(raised.value)


def test_a_folder_in_the_way_is_found_first(tmp_path: Path) -> None:
    (tmp_path / 'x').mkdir()
    with pytest.raises(OutputError, match='is a folder'), staged_outputs(tmp_path, ['x']):
        pytest.fail('The work must not begin.')


def test_a_name_that_is_no_utf_8_stays_the_same_name(tmp_path: Path) -> None:
    name = os.fsdecode(b'probe_\xe4.npz')
    write_json(tmp_path / 'metrics.json', {'scan': Path(name)})
    assert json.loads((tmp_path / 'metrics.json').read_text('utf-8')) == {'scan': name}


def test_json_has_no_nan() -> None:
    text = to_json({'a': math.nan, 'b': [math.inf, 1], 'c': Path('x'), 'd': (1, 2)})
    assert json.loads(text) == {'a': None, 'b': [None, 1], 'c': 'x', 'd': [1, 2]}


def test_history_has_every_column(tmp_path: Path) -> None:
    write_history(tmp_path / 'losses.csv', [{'epoch': 1.0}, {'epoch': 2.0, 'loss': 0.25}])
    assert (tmp_path / 'losses.csv').read_text() == 'epoch,loss\n1,\n2,0.25\n'


def test_where_one_file_cannot_have_its_name_all_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'a').write_text('old')
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / 'b':
            raise PermissionError(13, 'Permission denied')
        replace(source, target)

    def write() -> None:
        with staged_outputs(tmp_path, ['a', 'b', 'new'], rescue='a') as stage:
            for name in ('a', 'b', 'new'):
                (stage / name).write_text('new')
            monkeypatch.setattr(os, 'replace', refuse)

    with pytest.raises(OutputError, match=r'Permission denied.*is there still'):
        write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a', 'rescued-a']
    assert (tmp_path / 'a').read_text() == 'old'
    assert (tmp_path / 'rescued-a').read_text() == 'new'


@pytest.mark.usefixtures('backend')
def test_a_power_cut_takes_no_result(
    run: Any, scan_file: Path, tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    """Each file that a command leaves was synced before it had its name, and its folder after."""
    for number, command in enumerate((['train'], ['reconstruct'], ['refine'])):
        folder = tmp_path / str(number)
        assert run(*command, scan_file, '-o', folder).code == 0
        for path in (path for path in folder.iterdir() if not path.name.startswith('.')):
            inode = path.stat().st_ino
            assert synced.index(('sync', inode)) < synced.index(('name', inode)), path
        assert synced[-1] == ('sync', folder.stat().st_ino)


@pytest.mark.usefixtures('backend')
def test_two_runs_never_share_a_folder(run: Any, scan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'checkpoint.h5.zip').write_bytes(b'of the run under way')
    with locked_folder(folder):
        for command in ('train', 'reconstruct', 'refine'):
            refused = run(command, scan_file, '-o', folder)
            assert 'another run: process' in refused.error()
    assert [path.name for path in folder.iterdir()] == ['checkpoint.h5.zip']


def test_what_a_killed_run_has_left_goes(tmp_path: Path) -> None:
    """Its finished model stays, and so does what another program is writing there."""
    for name in ('stage/losses.csv', '0a1b2c3d-x', '0a1b2c3d-checkpoint.h5.zip', '0a1b2c3d-other'):
        path = tmp_path / f'.unfinished-{name}'
        path.parent.mkdir(exist_ok=True)
        path.write_text('half')
    for number in range(2):
        path = tmp_path / f'.unfinished-{number}' / 'wts.h5.zip'
        path.parent.mkdir()
        path.write_text(f'model {number}')
    with staged_outputs(tmp_path, ['x']) as stage:
        (stage / 'x').write_text('new')
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        'x': 'new',
        'rescued-wts.h5.zip': 'model 0',
        'rescued-2-wts.h5.zip': 'model 1',
        '.unfinished-0a1b2c3d-other': 'half',
    }


def test_a_run_that_was_killed_while_names_were_given_ends_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = tmp_path / '.unfinished-moving-0a1b2c3d'
    (stage / 'former').mkdir(parents=True)
    (stage / 'former' / 'a').write_text('old')
    (tmp_path / 'a').write_text('new')
    (stage / 'b').write_text('new')
    (tmp_path / 'b').write_text('old')
    with staged_outputs(tmp_path, ['c']):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {'a': 'new', 'b': 'new'}
    assert 'killed at its end' in caplog.text
