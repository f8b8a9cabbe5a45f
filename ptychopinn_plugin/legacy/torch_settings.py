"""What PtychoPINN's torch files hold about their network, in every layout they have had.

A checkpoint of Lightning holds the settings as dictionaries of three classes, or, later, as the
`artifact_identity` that a `wts.h5.zip` keeps in `torch_scaling_metadata.pt`. Older archives have
the flat dictionary alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptychopinn_plugin.errors import ArchiveError

SavedSection = Mapping[str, Any]

MASK_CAME_WITH = 'use_legacy_decoder_channel_override'
"""Before `ModelConfig` had this field, the border's branch was added in the middle as well."""

_TRAINING_NAMES = {'epochs': 'nepochs', 'training_groups': 'n_groups'}
_TRAINING = ('batch_size', 'learning_rate', 'n_groups', 'nepochs', 'train_data_file')


@dataclass(frozen=True)
class TorchSections:
    """The settings of its classes `ModelConfig`, `DataConfig` and `TrainingConfig`."""

    model_settings: SavedSection
    data: SavedSection
    training: SavedSection


@dataclass(frozen=True)
class TorchStructure:
    """What the weights alone leave open.

    Attributes
    ----------
    has_border : bool
        Whether the border's branch, whose weights are always there, is used.
    border_everywhere : bool, optional
        Whether it is added in the middle as well; None where the file leaves it open.
    """

    has_border: bool = True
    border_everywhere: bool | None = None


def find_sections(values: Any) -> TorchSections | None:
    """Return the settings in a checkpoint's hyper-parameters or in an archive's metadata."""
    if not isinstance(values, dict):
        return None
    identity = values.get('artifact_identity', values)
    if not isinstance(identity, dict):
        return None
    spec = identity.get('model_spec')
    models = spec if isinstance(spec, dict) else identity
    parts = [models.get('model_config')]
    parts += [identity.get(name) for name in ('data_config', 'training_config')]
    found = [part if isinstance(part, dict) else {} for part in parts]
    return TorchSections(*found) if any(found) else None


def flat_settings(sections: TorchSections) -> dict[str, Any]:
    """Return settings under the names of the flat dictionary."""
    model_settings, data = sections.model_settings, sections.data
    training = {
        _TRAINING_NAMES.get(name, name): sections.training[name] for name in sections.training
    }
    # The torch branch has the sides of a group as a pair, of which the flat dictionary knows one.
    grid = data.get('grid_size')
    side = grid[0] if isinstance(grid, tuple | list) and grid else 1
    return {
        **model_settings,
        'N': data.get('N'),
        'gridsize': data.get('gridsize', side),
        'nphotons': data.get('nphotons'),
        'probe_scale': data.get('probe_scale'),
        'model_type': 'supervised' if model_settings.get('mode') == 'Supervised' else 'pinn',
        **{name: training.get(name) for name in _TRAINING},
    }


def structure_of(
    settings: Mapping[str, Any], sections: TorchSections | None, source: str
) -> TorchStructure:
    """Find what the weights leave open, and refuse networks that compute something else.

    Parameters
    ----------
    settings : mapping
        The flat dictionary.
    sections : TorchSections, optional
    source : str
        For messages.

    Raises
    ------
    ArchiveError
        Naming the setting.
    """
    theirs = sections.model_settings if sections else {}
    architecture = theirs.get('architecture', settings.get('architecture', 'cnn'))
    if architecture != 'cnn':
        raise ArchiveError(
            f'{source} holds a network of architecture {architecture!r}; only cnn is read.'
        )
    if theirs.get('cnn_output_mode') == 'real_imag' and theirs.get('mode') != 'Supervised':
        raise ArchiveError(
            f"{source}: cnn_output_mode is 'real_imag', so its outputs are real and imaginary "
            'part; only amplitude and phase are read.'
        )
    if theirs.get('intensity_scale_trainable') is True:
        raise ArchiveError(
            f'{source}: intensity_scale_trainable is on, so the network takes patterns in a scale '
            'of its own, which the file does not hold.'
        )
    # The layers of the border lie in every file, whether they are used or not, so that their
    # weights show nothing; files from before the setting used them.
    big = theirs.get('probe_big', settings.get('probe.big', settings.get('probe_big', True)))
    everywhere = MASK_CAME_WITH not in theirs if theirs else None
    return TorchStructure(has_border=big is not False, border_everywhere=everywhere)


def torch_activation(settings: Mapping[str, Any], sections: TorchSections | None) -> str:
    """Return the amplitude's activation: there, whatever is not a sigmoid is a SiLU."""
    theirs = sections.model_settings if sections else {}
    name = theirs.get('amp_activation', settings.get('amp_activation', 'silu'))
    return 'sigmoid' if name == 'sigmoid' else 'swish'
