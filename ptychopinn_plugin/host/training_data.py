"""Which files of a folder are training data: Ptychodus names a folder and nothing else."""

from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.ptychodus_compat import PRODUCT_NAMES

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

    def __str__(self) -> str:
        """Return the names of the files, for the log."""
        text = ', '.join(path.name for path in self.scans)
        held_out = ', '.join(path.name for path in self.validation)
        return f'{text}; validation: {held_out}' if held_out else text


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
