"""A trained network in memory, independent of any framework and of any file."""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.model_archive import BUILT_IN_PATH, read_archive
from ptychopinn_plugin.model_contents import ModelContents, TrainingState
from ptychopinn_plugin.storage.untrusted import open_zip

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Scan


@dataclass(frozen=True)
class Model(ModelContents):
    """A trained network that scans are fitted to, and that can be continued where it has the state.

    The attributes are those of `ModelContents`.
    """

    @classmethod
    def of(cls, contents: ModelContents) -> 'Model':
        """Return the model whose parts a file holds."""
        return cls(**vars(contents))

    @classmethod
    def built_in(cls) -> 'Model':
        """Return the model that comes with the package.

        It is a learned prior for objects, of architecture 'prior': it works between iterations, for
        any probe, pattern size and dose, on every backend, and needs no training.
        """
        return _read_built_in()

    def fingerprint(self) -> str:
        """Return a SHA-256 of all that decides what the model predicts."""
        digest = hashlib.sha256()
        # Not the bytes of the file: one that is written again, or without its training state,
        # predicts the same.
        known = [self.network.to_dict(), self.photons, self.intensity_scale]
        digest.update(json.dumps(known, sort_keys=True).encode())
        probes = [self.probe]
        probes += [probe for pair in self.corrected_probes for probe in (pair.before, pair.after)]
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.weights[name], np.float32).tobytes())
        for probe in probes:
            digest.update(np.ascontiguousarray(probe, np.complex64).tobytes())
        return digest.hexdigest()

    @property
    def is_prior(self) -> bool:
        """Whether the network corrects objects between iterations, and not patterns."""
        return self.network.architecture == 'prior'

    @property
    def pattern_size(self) -> int:
        """Return the side in pixels of the patterns that the model takes."""
        return self.config.model.pattern_size or self.network.window_px

    def fitted(self, scan: 'Scan') -> 'Scan':
        """Return a scan with patterns of the size that the model takes.

        A learned prior sees objects alone: it takes patterns of any size, and a scan as it is, as
        is one that has the size already.
        """
        # SciPy comes with it and takes most of a second, for which showing a model need not wait.
        from ptychopinn_plugin.data import fit_to_size

        return scan if self.is_prior else fit_to_size(scan, self.pattern_size)

    def check_can_be_fine_tuned(self, instead: str) -> None:
        """Check that the model is one from which a training can start.

        Parameters
        ----------
        instead : str
            What the caller can do, a sentence for the message.

        Raises
        ------
        ConfigError
            If it is a learned prior.
        """
        if self.is_prior:
            raise ConfigError(
                'Fine-tuning needs a trained model; a learned prior for objects cannot be '
                f'fine-tuned on a scan. {instead}'
            )

    def check_continues_on(self, backend: str) -> None:
        """Check that the training of the model can continue exactly on a backend.

        Raises
        ------
        ConfigError
            If another one began it.
        """
        if backend != self.backend:
            raise ConfigError(
                f'Training continues exactly only on the backend that began it, {self.backend!r}; '
                f'{backend!r} was chosen. Choose {self.backend!r}, or fine-tune with base_model.'
            )

    def check_training_state(self, instead: str) -> TrainingState:
        """Return the training state, which continuing a training exactly needs.

        Parameters
        ----------
        instead : str
            How the caller fine-tunes, for the message.

        Raises
        ------
        ConfigError
            If the model was written for inference alone, or is one of PtychoPINN.
        """
        if self.training_state is None:
            raise ConfigError(
                'This model holds no training state (it was saved for inference only, or is one '
                'of PtychoPINN), so training cannot continue exactly. Fine-tune it instead: '
                f'{instead}.'
            )
        return self.training_state


@functools.cache
def _read_built_in() -> Model:
    with open_zip(BUILT_IN_PATH, str(BUILT_IN_PATH)) as archive:
        return Model.of(read_archive(archive))


def fit_for_training(
    scans: Sequence['Scan'], validation: Sequence['Scan'], config: Config, base: Model | None
) -> tuple[Config, tuple['Scan', ...], tuple['Scan', ...]]:
    """Fit scans to the network that is to be trained on them.

    Parameters
    ----------
    scans, validation : sequence of Scan
    config : Config
        Where it names no size of patterns, that of the first scan is taken.
    base : Model, optional
        The model that is fine-tuned: its network stays as it is, so the settings follow it.

    Returns
    -------
    Config
        With the settings of the network, the size of patterns among them.
    tuple of Scan, tuple of Scan
        `scans` and `validation` with patterns of that size.
    """
    # SciPy comes with it, as in `Model.fitted`.
    from ptychopinn_plugin.data import fit_to_size

    if not scans:
        return config, (), tuple(validation)
    settings = config.model if base is None else base.config.model
    sized = settings.sized_for(scans[0].pattern_shape)
    size = sized.pattern_size
    assert size is not None
    return (
        config.replace(model=sized),
        tuple(fit_to_size(scan, size) for scan in scans),
        tuple(fit_to_size(scan, size) for scan in validation),
    )
