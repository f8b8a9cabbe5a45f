"""Every field of PtychoPINN's settings: its flat name, its default, and what it is here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Owner = Literal['ModelConfig', 'TrainingConfig', 'InferenceConfig']
Policy = Literal['taken', 'warn', 'raise']

OWNERS: tuple[Owner, ...] = ('ModelConfig', 'TrainingConfig', 'InferenceConfig')


def _same(value: Any) -> Any:
    return value


def _whole_if_possible(value: Any) -> Any:
    return int(value) if float(value).is_integer() else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _renamed(names: Mapping[str, str]) -> Callable[[Any], Any]:
    def rename(value: Any) -> Any:
        return names.get(value.lower(), value.lower()) if isinstance(value, str) else value

    return rename


_PATHS = ('train_data_file', 'test_data_file', 'output_dir', 'model_path')
_NUMBERS = ('n_groups', 'n_images', 'n_subsample', 'subsample_seed', 'neighbor_pool_size')
_KINDS: dict[str, type] = {
    **dict.fromkeys(_PATHS, Path),
    **dict.fromkeys(_NUMBERS, int),
    'gradient_clip_val': float,
    **dict.fromkeys(('max_hidden_channels', 'resnet_width'), int),
    'probe_mask_diameter': float,
}
"""These fields have no default whose type would be that of their values."""

_ACTIVATIONS = {'silu': 'swish'}
_SCHEDULES = {
    'default': 'constant',
    'reducelronplateau': 'plateau',
    'reduceonplateau': 'plateau',
    'adaptive': 'plateau',
    'warmupcosine': 'cosine',
    'cosineannealing': 'cosine',
}
_SCHEDULES_BACK = {
    'constant': 'Default',
    'exponential': 'Exponential',
    'cosine': 'WarmupCosine',
    'one-cycle': 'WarmupCosine',
    'plateau': 'ReduceLROnPlateau',
}


@dataclass(frozen=True)
class Field:
    """A field of PtychoPINN's settings.

    Attributes
    ----------
    owner, name : str
        The class that it belongs to in PtychoPINN, and its name there.
    default : plain value
        Its default in PtychoPINN.
    effect : str
        What it does here, or why it has no effect.
    ours : str
        ``section.name`` in `Config`, or ``run.name`` for what is no setting here but an argument
        (`configuration.LegacySettings`); empty where it has no counterpart.
    flat : str
        Its name in the flat dictionary, where that is not `name`.
    policy : str
        'taken': honoured, or, without `ours`, without any effect there either, given what is
        refused; else what happens where the value is another than `neutral`.
    neutral : plain value
        The value with which there is nothing to honour; `default` where not given.
    take, give : callable
        From their value to ours, and back.
    """

    owner: Owner
    name: str
    default: Any
    effect: str
    ours: str = ''
    flat: str = ''
    policy: Policy = 'taken'
    neutral: Any = ...
    take: Callable[[Any], Any] = _same
    give: Callable[[Any], Any] = _same

    @property
    def flat_name(self) -> str:
        """Return the name in the flat dictionary."""
        return self.flat or self.name

    @property
    def kind(self) -> type:
        """Return the type of its values."""
        return _KINDS.get(self.name) or (str if self.default is None else type(self.default))

    def is_neutral(self, value: Any) -> bool:
        """Return whether a value changes nothing, so that it need not be honoured."""
        neutral = self.default if self.neutral is ... else self.neutral
        return bool(value is None or value == neutral)


def _model(*arguments: Any, **more: Any) -> Field:
    return Field('ModelConfig', *arguments, **more)


def _training(*arguments: Any, **more: Any) -> Field:
    return Field('TrainingConfig', *arguments, **more)


def _inference(*arguments: Any, **more: Any) -> Field:
    return Field('InferenceConfig', *arguments, **more)


_LAYOUTS = {'grouped_patches': True, 'single_patch': False}
_OTHER_NETWORKS = 'no effect: of architectures that are refused'
_SCHEDULES_OWN = 'no effect: schedules have settings of their own here'
_GROUPS_COVER = 'no effect: groups cover every position once'

FIELDS: tuple[Field, ...] = (
    _model('N', 64, 'side of the patterns', 'model.pattern_size'),
    _model('gridsize', 1, 'a group holds its square of patterns', 'model.gridsize'),
    _model(
        'n_filters_scale',
        2,
        'factor on the filters',
        'model.filters_scale',
        give=_whole_if_possible,
    ),
    _model('model_type', 'pinn', 'pinn or supervised', 'model.model_type', take=_lower),
    _model(
        'amp_activation',
        'sigmoid',
        'last activation of the amplitude',
        'model.amplitude_activation',
        take=_renamed(_ACTIVATIONS),
    ),
    _model(
        'object_big',
        True,
        'patches of a group are averaged where they overlap',
        'model.overlap_constraint',
        flat='object.big',
    ),
    _model(
        'object_layout',
        None,
        'of newer versions: grouped_patches is object_big, single_patch is not; it wins',
        'model.overlap_constraint',
        take=lambda value: _LAYOUTS.get(value, value) if isinstance(value, str) else value,
    ),
    _model('training_canvas', None, 'no effect: follows object_layout'),
    _model(
        'training_patch_weighting',
        None,
        'no effect: patches of a group weigh alike',
        policy='warn',
        neutral='central_mask',
    ),
    _model(
        'probe_big',
        True,
        'a second branch predicts the border of a patch',
        'model.border_decoder',
        flat='probe.big',
    ),
    _model(
        'probe_mask',
        False,
        'no mask: the probe is used as it is in the scan',
        flat='probe.mask',
        policy='warn',
    ),
    _model('probe_mask_sigma', 1.0, 'no effect: see probe_mask'),
    _model('probe_mask_diameter', None, 'no effect: see probe_mask'),
    _model('pad_object', True, 'predict the central half of a patch', 'model.pad_object'),
    _model(
        'probe_scale',
        4.0,
        'no effect: the probe is scaled to the counts; an imported model keeps its own scale',
        policy='warn',
    ),
    _model('gaussian_smoothing_sigma', 0.0, 'predictions are not smoothed', policy='warn'),
    _model(
        'architecture',
        'cnn',
        'cnn; a sweepnet of ours has no counterpart there',
        'model.architecture',
        take=_lower,
    ),
    _model('fno_modes', 12, _OTHER_NETWORKS),
    _model('fno_width', 32, _OTHER_NETWORKS),
    _model('fno_blocks', 4, _OTHER_NETWORKS),
    _model('fno_cnn_blocks', 2, _OTHER_NETWORKS),
    _model('fno_input_transform', 'none', _OTHER_NETWORKS),
    _model('generator_output_mode', 'real_imag', _OTHER_NETWORKS),
    _model('learned_input_channels', 1, _OTHER_NETWORKS),
    _model('max_hidden_channels', None, _OTHER_NETWORKS),
    _model('resnet_width', None, _OTHER_NETWORKS),
    _training(
        'train_data_file', None, 'the scan to train on', 'run.train_data', 'train_data_file_path'
    ),
    _training(
        'test_data_file', None, 'the scan to reconstruct', 'run.test_data', 'test_data_file_path'
    ),
    _training('batch_size', 16, 'patterns in a batch', 'training.batch_size'),
    _training('nepochs', 50, 'passes over the training patterns', 'training.epochs'),
    _training(
        'mae_weight',
        0.0,
        'weight of the mean absolute error of the amplitudes',
        'training.amplitude_mae_weight',
    ),
    _training('nll_weight', 1.0, 'weight of the Poisson likelihood', 'training.poisson_weight'),
    _training('realspace_mae_weight', 0.0, 'no such term of the loss', policy='raise'),
    _training('realspace_weight', 0.0, 'no such term of the loss', policy='raise'),
    _training(
        'nphotons',
        1e9,
        'no effect: counts come from the scan, or from nphotons in its _metadata',
        policy='warn',
    ),
    _training('n_groups', 512, 'groups in an epoch', 'training.n_groups'),
    _training('n_images', None, 'deprecated name of n_groups', 'training.n_groups'),
    _training(
        'n_subsample', None, 'how many patterns of each scan are used', 'training.n_subsample'
    ),
    _training('subsample_seed', None, 'seed of all that is random', 'training.seed'),
    _training(
        'neighbor_count',
        4,
        'among how many neighbours a group is chosen',
        'training.neighbor_count',
    ),
    _training(
        'enable_oversampling',
        False,
        'no effect: each epoch draws new groups, so all combinations come up',
        policy='warn',
    ),
    _training(
        'neighbor_pool_size',
        None,
        'beats neighbor_count, where given',
        'training.neighbor_count',
    ),
    _training(
        'positions_provided',
        True,
        'positions are needed, and are in the scan',
        flat='positions.provided',
        policy='raise',
    ),
    _training(
        'probe_trainable',
        False,
        'training corrects the probe',
        'training.probe_trainable',
        'probe.trainable',
    ),
    _training(
        'intensity_scale_trainable',
        True,
        'training corrects the intensity scale',
        'training.intensity_scale_trainable',
        'intensity_scale.trainable',
    ),
    _training('output_dir', None, 'folder for the results', 'run.output', 'output_prefix'),
    _training('sequential_sampling', False, 'no effect: groups are drawn at random', policy='warn'),
    _training('backend', None, 'the framework that computes', 'run.backend'),
    _training('learning_rate', 1e-3, 'peak step of the optimizer', 'training.learning_rate'),
    _training('optimizer', 'adam', 'adam or adamw', 'training.optimizer', take=_lower),
    _training('weight_decay', 0.0, 'of adamw', 'training.weight_decay'),
    _training(
        'gradient_clip_val',
        None,
        'largest norm of the gradient; ours where not given',
        'training.gradient_clip',
    ),
    _training(
        'accum_steps', 1, 'batches that share one step', 'training.gradient_accumulation_steps'
    ),
    _training(
        'scheduler',
        'Default',
        'how the learning rate changes',
        'training.schedule',
        take=_renamed(_SCHEDULES),
        give=lambda value: _SCHEDULES_BACK[value],
    ),
    _training('momentum', 0.9, 'no effect: of sgd, which is refused'),
    _training('adam_beta1', 0.9, 'no effect: 0.9', policy='warn'),
    _training('adam_beta2', 0.999, 'no effect: 0.999', policy='warn'),
    _training('gradient_clip_algorithm', 'norm', 'the norm is clipped', policy='warn'),
    _training('lr_warmup_epochs', 0, _SCHEDULES_OWN, policy='warn'),
    _training('lr_min_ratio', 0.1, _SCHEDULES_OWN, policy='warn'),
    _training('plateau_factor', 0.5, _SCHEDULES_OWN, policy='warn'),
    _training('plateau_patience', 2, _SCHEDULES_OWN, policy='warn'),
    _training('plateau_min_lr', 5e-5, _SCHEDULES_OWN, policy='warn'),
    _training('plateau_threshold', 0.0, _SCHEDULES_OWN, policy='warn'),
    _training(
        'torch_loss_mode',
        'poisson',
        'for mae set mae_weight 1 and nll_weight 0',
        policy='raise',
    ),
    _training('torch_mae_pred_l2_match_target', False, 'no such term of the loss', policy='raise'),
    _inference('model_path', None, 'the model, or the folder that holds it', 'run.model_path'),
    _inference(
        'test_data_file', None, 'the scan to reconstruct', 'run.test_data', 'test_data_file_path'
    ),
    _inference('n_groups', None, _GROUPS_COVER, policy='warn'),
    _inference(
        'n_subsample',
        None,
        'how many patterns are reconstructed from',
        'run.n_subsample',
    ),
    _inference('subsample_seed', None, 'seed of n_subsample', 'run.subsample_seed'),
    _inference('neighbor_count', 4, _GROUPS_COVER, policy='warn'),
    _inference('enable_oversampling', False, _GROUPS_COVER, policy='warn'),
    _inference('neighbor_pool_size', None, _GROUPS_COVER, policy='warn'),
    _inference('debug', False, 'no effect; see the log and metrics.json', policy='warn'),
    _inference('output_dir', None, 'folder for the results', 'run.output', 'output_prefix'),
    _inference('backend', None, 'the framework that computes', 'run.backend'),
)

RUN_TIME = frozenset(
    [
        'learning_rate',
        'optimizer',
        'weight_decay',
        'momentum',
        'adam_beta1',
        'adam_beta2',
        'gradient_clip_val',
        'gradient_clip_algorithm',
        'accum_steps',
        'scheduler',
        'lr_warmup_epochs',
        'lr_min_ratio',
        'plateau_factor',
        'plateau_patience',
        'plateau_min_lr',
        'plateau_threshold',
    ]
)
"""These are read where they are given, and never written to the flat dictionary."""

SPECIAL = frozenset(['n_images', 'neighbor_pool_size', 'object_layout'])
"""These second names of a setting win where they are given; only the plain one is written back."""

OLDER_NAMES = {'n_images': 'n_groups', 'max_epochs': 'nepochs', 'test_data': 'test_data_file'}
"""Each deprecated name is a key, the name that took its place is the value."""

NEWEST_NAMES = {
    'training_groups': 'n_groups',
    'inference_groups': 'n_groups',
    'train_raw_selection': 'n_subsample',
    'inference_raw_selection': 'n_subsample',
}
"""Newer versions of PtychoPINN call some fields by these names."""

GROUPS: Mapping[str, Mapping[str, str]] = {
    'model': {},
    'data': {},
    'sampling': {},
    'loss': {},
    'tf_loss': {},
    'gradient_clip': {'val': 'gradient_clip_val', 'algorithm': 'gradient_clip_algorithm'},
    'optimizer': {'algorithm': 'optimizer'},
    'sgd': {},
    'adam': {'beta1': 'adam_beta1', 'beta2': 'adam_beta2'},
    'scheduler': {'kind': 'scheduler'},
}
"""One version of `TrainingConfig` holds these dataclasses; this maps their fields to one level."""


def fields_of(owner: Owner) -> Mapping[str, Field]:
    """Return the fields of one of PtychoPINN's classes by name."""
    return {item.name: item for item in FIELDS if item.owner == owner}
