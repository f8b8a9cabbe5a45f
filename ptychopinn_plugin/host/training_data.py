"""Which files of a folder are training data, and whether they can be: Ptychodus names a folder."""

from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import ScanOutline, load_outline
from ptychopinn_plugin.data.grouping import check_group_size, check_positions
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
    settings = config.model if base is None else base.config.model
    for outline in outlines:
        if not single_shot:
            check_positions(outline)
        check_group_size(len(outline), settings.gridsize**2)
    if base is None:
        # The window of the network decides about no error, and may be unknown without a probe.
        sized = settings.sized_for(outlines[0].pattern_shape)
        describe_network(sized, min(outlines[0].pattern_shape))
    n_scans = len(files.scans)
    names = ' and '.join(map(_in_words, files.scans, outlines[:n_scans]))
    judges = ' and '.join(map(_in_words, files.validation, outlines[n_scans:]))
    training = config.training
    limits = count(training.epochs, 'epoch')
    if training.max_minutes is not None:
        limits += f', at most {training.max_minutes:g} min'
    return f'{names}{f", validated on {judges}" if judges else ""}; {limits}'


def _in_words(path: Path, outline: ScanOutline) -> str:
    size = ' x '.join(map(str, outline.pattern_shape))
    return f'{outline.name} ({count(len(outline), "pattern")} of {size} px, {path.name})'
