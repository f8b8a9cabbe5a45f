"""How many patterns a second are received from each source, matched and stored, and how many lost.

`python benchmarks/streaming.py`, with `--patterns`, `--size` and `--sources`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ptychopinn_plugin.data import write_scan
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.streaming.matching import PatternMatcher
from ptychopinn_plugin.streaming.reception import Patience, Reception
from ptychopinn_plugin.streaming.sources import open_stream
from ptychopinn_plugin.streaming.store import PatternStore

LOOPBACK = {
    'EPICS_PVA_ADDR_LIST': '127.0.0.1',
    'EPICS_PVA_AUTO_ADDR_LIST': 'NO',
    'EPICS_PVAS_INTF_ADDR_LIST': '127.0.0.1',
}
SOURCES = {
    'zmq': ('zmq:tcp://127.0.0.1:5611', 1),
    'hdf5': ('hdf5:{folder}/growing.h5', 16),
    'folder': ('folder:{folder}/in', 16),
    'pva': ('pva:benchmark', 1),
}
"""Each source has an address, and a number of patterns in a message."""


def measure(name: str, scan: Path, folder: Path) -> str:
    """Return a row of the table."""
    address, batch = SOURCES[name]
    address = address.format(folder=folder)
    matcher = PatternMatcher(10.0, 4096)
    store = PatternStore(keeps=True, max_queued=1, drops=False)
    command = [sys.executable, '-m', 'ptychopinn_plugin', 'replay', str(scan), '--to', address]
    with (
        subprocess.Popen([*command, '--batch', str(batch), '--delay', '4']) as sender,
        Reception(matcher, store, Patience(idle_s=10.0)) as reception,
    ):
        addresses = [address, f'{address}:positions'] if name == 'pva' else [address]
        reception.begin([open_stream(each, reception.on_fault) for each in addresses])
        first_s = None
        while not reception.is_over():
            if first_s is None and store.n_appended:
                first_s = time.monotonic()
            time.sleep(0.01)
        seconds = time.monotonic() - (first_s or time.monotonic())
        counts = reception.counts()
        sender.wait()
    return f'| {name} | {batch} | {store.n_appended / seconds:,.0f} | {counts["lost"]} |'


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--patterns', type=int, default=4096)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--sources', nargs='+', default=list(SOURCES), choices=list(SOURCES))
    options = parser.parse_args()
    os.environ.update(LOOPBACK)
    side = round(options.patterns**0.5)
    with tempfile.TemporaryDirectory() as name:
        scan = Path(name) / 'scan.npz'
        configuration = SimulationConfig(size=options.size, rows=side, columns=side, step_px=4.0)
        write_scan(scan, simulate(configuration))
        print('| source | patterns in a message | patterns a second | lost |\n|---|---|---|---|')
        for source in options.sources:
            print(measure(source, scan, Path(name)), flush=True)


if __name__ == '__main__':
    main()
