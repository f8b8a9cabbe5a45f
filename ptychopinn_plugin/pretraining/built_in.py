"""The built-in network: weights that come with the package."""

from functools import lru_cache
from pathlib import Path

from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_file import read_model

WEIGHTS = Path(__file__).parent / 'built_in.zip'


@lru_cache(maxsize=1)
def built_in_model() -> Model:
    """Return the network that takes a scan of any probe and size, before any training.

    Returns
    -------
    Model
        Read once; its window is chosen for each scan from the illuminated size of the probe.

    Raises
    ------
    ArchiveError
        If the file is damaged.
    """
    return read_model(WEIGHTS)
