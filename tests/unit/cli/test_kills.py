"""A run that is killed while it writes leaves complete files of one run, after the next one."""

import random
import subprocess
import sys
import time
from pathlib import Path

from ptychopinn_plugin.cli.outputs import staged_outputs
from ptychopinn_plugin.storage.lock import LOCK_FILE

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from ptychopinn_plugin.cli.outputs import staged_outputs, write_text
folder, names = Path(sys.argv[1]), [f'{n}.txt' for n in range(6)]
print('ready', flush=True)
number = int(sys.argv[2])
while True:
    number += 1
    with staged_outputs(folder, names) as stage:
        for name in names:
            write_text(stage / name, f'{number} ' * 2000)
"""


def test_a_kill_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(0)
    for hit in range(4):
        command = [sys.executable, '-c', WRITE_FOR_EVER, str(tmp_path), str(1000 * hit)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        deadline = time.monotonic() + 20
        while not (tmp_path / '0.txt').exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.05))
        child.kill()
        child.wait()
        child.stdout.close()
        for path in tmp_path.glob('*.txt'):
            assert len(set(path.read_text().split())) == 1, 'a file is complete'
            assert len(path.read_text().split()) == 2000
        with staged_outputs(tmp_path, []):
            pass
        # Nobody may remove the empty draft of a lock before a while.
        left = [path for path in tmp_path.iterdir() if not path.name.startswith(LOCK_FILE)]
        found = {path.read_text() for path in left}
        assert len(found) == 1, 'all files are of one run'
        assert len(left) == 6, 'nothing else is left'
