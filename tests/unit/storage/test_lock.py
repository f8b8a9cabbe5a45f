"""One run at a time owns a folder."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.storage.lock import LOCK_FILE, locked_folder
from ptychopinn_plugin.storage.processes import ProcessIdentity, current_process


def write_lock(folder: Path, owner: ProcessIdentity) -> None:
    (folder / LOCK_FILE).write_text(json.dumps({**asdict(owner), 'since': '2026-01-01 12:00:00'}))


def ended_process() -> int:
    """Return the number of a process that has just ended."""
    return int(subprocess.check_output([sys.executable, '-c', 'import os; print(os.getpid())']))


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        with pytest.raises(OutputError, match='another run: process') as caught:
            locked_folder(tmp_path).__enter__()
        assert '\n' not in str(caught.value)
        assert str(current_process().pid) in str(caught.value)
    assert not list(tmp_path.iterdir())
    with locked_folder(tmp_path):
        pass


def test_the_lock_of_a_process_that_is_gone_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_lock(tmp_path, replace(current_process(), pid=ended_process()))
    with locked_folder(tmp_path):
        held = json.loads((tmp_path / LOCK_FILE).read_text())
        assert held['pid'] == current_process().pid
    assert 'was taken over: process' in caplog.text
    assert not list(tmp_path.iterdir())


def test_what_a_process_has_left_that_died_while_it_locked_goes(tmp_path: Path) -> None:
    write_lock(tmp_path, replace(current_process(), pid=ended_process()))
    (tmp_path / LOCK_FILE).rename(tmp_path / f'{LOCK_FILE}.0a1b2c3d')
    write_lock(tmp_path, current_process())
    (tmp_path / LOCK_FILE).rename(tmp_path / f'{LOCK_FILE}.1a1b2c3d')
    (tmp_path / f'{LOCK_FILE}.2a1b2c3d').write_text('{"ho')
    with locked_folder(tmp_path):
        pass
    # Whose process is alive, or may just be writing, stays.
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ['.1a1b2c3d', '.2a1b2c3d']


@pytest.mark.skipif(not current_process().started, reason='this system shows no start')
def test_a_number_that_another_process_has_got_is_no_owner(tmp_path: Path) -> None:
    write_lock(tmp_path, replace(current_process(), started='1'))
    with locked_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ('change', 'reported'),
    [({'host': 'elsewhere'}, 'another machine'), ({'namespace': 'other'}, 'a container')],
)
def test_the_lock_of_another_machine_is_never_taken_over(
    tmp_path: Path, change: dict[str, str], reported: str
) -> None:
    write_lock(tmp_path, replace(current_process(), pid=ended_process(), **change))
    with pytest.raises(OutputError, match=f'{reported}.*if it has ended, remove .*lock'):
        locked_folder(tmp_path).__enter__()
    assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize('text', ['', '{}', 'null', '{"pid": "x"}'])
def test_a_lock_that_names_nobody_is_left_to_the_user(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    with pytest.raises(OutputError, match=r'names nobody.*remove'):
        locked_folder(tmp_path).__enter__()
