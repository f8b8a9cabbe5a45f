"""Whether a run is slower than an earlier one, by more than both of them vary."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptychopinn_plugin.errors import DataError

MIN_NOISE = 0.05
"""Few repeats show too little noise: differences below this share never count."""


def read_report(path: Path) -> dict[str, Any]:
    """Read what ``ptychopinn bench --json`` has written.

    Raises
    ------
    DataError
        If the file cannot be read, or is no such report.
    """
    try:
        report = json.loads(path.read_text(encoding='utf-8'))
        rows = report['rows']
        for row in rows:
            if not (math.isfinite(row['share']) and row['share'] > 0 and row['noise'] >= 0):
                raise ValueError(f'row {row["key"]!r} has no share above 0')
            str(row['key'])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} was expected to be a report of ptychopinn bench; it cannot be read '
            f'({type(error).__name__}: {error}). Make one: ptychopinn bench --json > {path}.'
        ) from error
    return dict(report)


def compare(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the shares of the floor of two runs.

    Parameters
    ----------
    old, new : mapping
        Reports of `run_bench`.

    Returns
    -------
    rows : list of dict
        For each figure of both: 'key', 'ratio' (new over old; above 1 is better), 'noise' (of
        both runs together, as a share) and 'worse'.
    worse : list of str
        The keys of figures that got worse by more than the noise.

    Raises
    ------
    DataError
        If the two have no figure in common.
    """
    before = {row['key']: row for row in old['rows']}
    rows = []
    for row in new['rows']:
        if row['key'] not in before:
            continue
        other = before[row['key']]
        ratio = row['share'] / other['share']
        noise = max(MIN_NOISE, math.hypot(row['noise'], other['noise']))
        rows.append(
            {'key': row['key'], 'ratio': ratio, 'noise': noise, 'worse': ratio < 1 / (1 + noise)}
        )
    if not rows:
        raise DataError(
            'The reports were expected to have figures in common; they have none. Run both with '
            'the same --sizes, --batch-sizes and --backend.'
        )
    return rows, [row['key'] for row in rows if row['worse']]
