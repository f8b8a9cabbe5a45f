"""Reading the outline of a scan, whatever file it is in."""

from pathlib import Path

from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.readers import load_scan
from ptychopinn_plugin.data.readers.content import check_exists, content_of, with_path
from ptychopinn_plugin.data.readers.npz import read_npz_outline
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import read_pair_outline
from ptychopinn_plugin.errors import DataError


def load_outline(path: Path | str) -> ScanOutline:
    """Read what a scan is but for its patterns, which takes a moment where they are large.

    Parameters
    ----------
    path : Path
        As in `load_scan`.

    Returns
    -------
    ScanOutline
        Of the scan that `load_scan` reads without further arguments.

    Raises
    ------
    DataError
        If `load_scan` would raise one, for a reason that is not in the patterns.
    """
    path = Path(path)
    check_exists(path)
    try:
        content = 'ptychodus' if path.is_dir() else content_of(path)
        if content == 'ptychodus':
            return read_pair_outline(path)
        return read_npz_outline(path) if content == 'npz' else ScanOutline.of(load_scan(path))
    except DataError as error:
        raise with_path(error, path) from error
