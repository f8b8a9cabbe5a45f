"""Which files of a folder are training data, and whether they can be: Ptychodus names a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import Scan, ScanOutline, load_outline
from ptychopinn_plugin.data.grouping import check_before_run
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.network import describe_network
from ptychopinn_plugin.ptychodus_compat import PRODUCT_NAMES
from ptychopinn_plugin.text import count

TRAINING_FILE = 'train_data.npz'
HELD_OUT = ('test', 'valid')


@dataclass(frozen=True)
class TrainingFiles:
    """The scans of a training run.

    Attributes
    ----------
    scans, validation : tuple of Path
    """

    scans: tuple[Path, ...]
    validation: tuple[Path, ...] = ()


def find_training_files(folder: Path) -> TrainingFiles:
    """Choose the training data in a folder.

    All NPZ scans (`Export Training Data...` writes one) train one model; those whose names begin
    with ``test`` or ``valid`` only judge it. Without any, it is Ptychodus' own pair.

    Parameters
    ----------
    folder : Path
        Or one file of it.

    Raises
    ------
    DataError
        If there is nothing to train on.
    """
    if folder.is_file():
        return TrainingFiles((folder,))
    # Files that are being written begin with a dot, see `storage.atomic`.
    found = sorted(path for path in folder.glob('*.npz') if not path.name.startswith('.'))
    validation = tuple(path for path in found if path.name.lower().startswith(HELD_OUT))
    scans = tuple(path for path in found if path not in validation)
    if scans:
        return TrainingFiles(scans, validation)
    has_product = any((folder / name).is_file() for name in PRODUCT_NAMES)
    if (folder / 'diffraction.h5').is_file() and has_product:
        return TrainingFiles((folder,), validation)
    raise DataError(
        f'{folder} holds no training data: neither an NPZ scan as {TRAINING_FILE} nor '
        'diffraction.h5 with product.h5. Write one into it first: Export Training Data... in the '
        'menu beside Train.'
    )


def check_training_files(
    files: TrainingFiles, config: Config, base: Model | None, *, single_shot: bool
) -> str:
    """Check what can be checked before a worker starts, which takes seconds, and reads patterns.

    Parameters
    ----------
    files : TrainingFiles
    config : Config
    base : Model, optional
        The model that is fine-tuned; its network is the one that is trained.
    single_shot : bool
        Whether patterns share nothing, and so need not overlap.

    Returns
    -------
    str
        What is trained on, in words: scans, patterns, files and limits.

    Raises
    ------
    DataError
        If positions are in a wrong unit, illuminations do not overlap, the probe is of another
        size than the patterns, or there are fewer patterns than a group holds.
    ConfigError
        If the network takes no patterns of this size.
    """
    outlines = [load_outline(path) for path in (*files.scans, *files.validation)]
    n_scans = len(files.scans)
    check_training_scans(outlines[:n_scans], config, base, single_shot=single_shot)
    settings = config.model if base is None else base.config.model
    for outline in outlines[n_scans:]:
        check_before_run(outline, settings.gridsize, single_shot=single_shot)
    names = ' and '.join(map(_in_words, files.scans, outlines[:n_scans]))
    judges = ' and '.join(map(_in_words, files.validation, outlines[n_scans:]))
    training = config.training
    limits = count(training.epochs, 'epoch')
    if training.max_minutes is not None:
        limits += f', at most {training.max_minutes:g} min'
    return f'{names}{f", validated on {judges}" if judges else ""}; {limits}'


def check_training_scans(
    scans: Sequence[Scan | ScanOutline], config: Config, base: Model | None, *, single_shot: bool
) -> None:
    """Check whether a network can be trained on scans, before anything takes long.

    Parameters and errors are those of `check_training_files`.
    """
    settings = config.model if base is None else base.config.model
    used = config.training.n_subsample
    for scan in scans:
        check_before_run(scan, settings.gridsize, single_shot=single_shot, n_used=used)
    if base is None:
        # The window of the network decides about no error, and may be unknown without a probe.
        sized = settings.sized_for(scans[0].pattern_shape)
        describe_network(sized, min(scans[0].pattern_shape))


def _in_words(path: Path, outline: ScanOutline) -> str:
    size = ' x '.join(map(str, outline.pattern_shape))
    return f'{outline.name} ({count(len(outline), "pattern")} of {size} px, {path.name})'
