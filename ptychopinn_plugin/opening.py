"""What the API takes in place of a scan or a model in memory, and how it is opened."""

from collections.abc import Iterable
from pathlib import Path

from ptychopinn_plugin.data import Scan, load_scan
from ptychopinn_plugin.legacy.raw_data import RawDataLike, scan_from_raw_data
from ptychopinn_plugin.model_file import Model, read_model

AnyScan = Scan | RawDataLike | Path | str
"""A scan may be a `Scan`, a `RawData` of PtychoPINN (or what looks like one), or a file."""

BUILT_IN_KEYWORD = 'built-in'

AnyModel = Model | Path | str
"""A model may be a `Model`, the file that holds it, or 'built-in' (`Model.built_in`)."""


def open_model(path: Path | str, *, with_training_state: bool = True) -> Model:
    """Read a model file, or the model that comes with the package; no framework is needed.

    Parameters
    ----------
    path : Path or str
        A file, or 'built-in' where no file is named so.
    with_training_state : bool
        False leaves out what only `train(resume=...)` needs, which is most of the file.

    Raises
    ------
    ArchiveError
        If it is not a model file, damaged, or of a newer format.
    """
    if str(path) == BUILT_IN_KEYWORD and not Path(path).exists():
        return Model.built_in()
    return read_model(Path(path), with_training_state=with_training_state)


def as_model(model: AnyModel, *, with_training_state: bool) -> Model:
    """Return a model, read where a file is given; `open_model` has the arguments."""
    if isinstance(model, Model):
        return model
    return open_model(model, with_training_state=with_training_state)


def as_scan(scan: AnyScan) -> Scan:
    """Return the scan that a file or a `RawData` of PtychoPINN holds."""
    if isinstance(scan, RawDataLike):
        return scan_from_raw_data(scan)
    return scan if isinstance(scan, Scan) else load_scan(scan)


def as_scans(scans: AnyScan | Iterable[AnyScan]) -> tuple[Scan, ...]:
    """Return one scan or several as a tuple; a path is one scan, although it could be iterated."""
    if isinstance(scans, Scan | RawDataLike | Path | str):
        return (as_scan(scans),)
    return tuple(as_scan(scan) for scan in scans)
