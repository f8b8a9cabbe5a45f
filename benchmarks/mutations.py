"""List the faults that mutmut has put into the package and no test has found.

    mutmut run --max-children 2
    python benchmarks/mutations.py
    python benchmarks/mutations.py --show > survivors.diff

mutmut, whose settings are in `pyproject.toml`, leaves what became of each fault in `mutants`. This
program prints the table of docs/mutations.md, or with ``--show`` each fault that no test has found.
"""

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path

SURVIVED, NO_TESTS, NOT_RUN = 0, 33, None
"""A fault's exit code is that of its tests; mutmut has its own for a function that none calls."""

FOLDER = Path('mutants')


def read_results() -> dict[str, dict[str, int | None]]:
    """Return the exit code of each fault, by module."""
    found = {}
    for path in sorted(FOLDER.rglob('*.py.meta')):
        codes = json.loads(path.read_text())['exit_code_by_key']
        if codes:
            found[str(path.relative_to(FOLDER)).removesuffix('.meta')] = codes
    return found


def main() -> int:
    """Print the table, or the faults that are left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--show', action='store_true', help='print the faults that are left')
    options = parser.parse_args()
    results = read_results()
    left = (SURVIVED, NO_TESTS)
    if options.show:
        for codes in results.values():
            for name in (name for name, code in codes.items() if code in left):
                shown = subprocess.run(['mutmut', 'show', name], capture_output=True, text=True)
                lines = shown.stdout.splitlines()
                print('\n'.join([f'# {name}', *(li for li in lines if li[:1] in ('-', '+'))]), '\n')
        return 0
    print('| module | faults | found | left |\n|---|---|---|---|')
    total: collections.Counter[str] = collections.Counter()
    for module, codes in results.items():
        counts = collections.Counter(codes.values())
        n_left, waiting = counts[SURVIVED] + counts[NO_TESTS], counts[NOT_RUN]
        assert not waiting, f'{waiting} faults of {module} were not tried; run mutmut again'
        total += collections.Counter(faults=len(codes), left=n_left)
        name = module.removeprefix('ptychopinn_plugin/')
        print(f'| `{name}` | {len(codes)} | {len(codes) - n_left} | {n_left} |')
    print(f'| all | {total["faults"]} | {total["faults"] - total["left"]} | {total["left"]} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
