"""PtychoPINN's settings and ours: every field, both ways, and what is not honoured by name."""

import dataclasses
import logging
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptychopinn_plugin import legacy
from ptychopinn_plugin.cli.settings import assemble_config
from ptychopinn_plugin.config import Config, ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.legacy.fields import FIELDS, RUN_TIME, SPECIAL, Field, fields_of

CONTRACT = {
    'ModelConfig': 'N gridsize n_filters_scale model_type amp_activation object_big probe_big '
    'probe_mask pad_object probe_scale gaussian_smoothing_sigma architecture',
    'TrainingConfig': 'train_data_file test_data_file batch_size nepochs mae_weight nll_weight '
    'realspace_mae_weight realspace_weight nphotons n_groups n_images n_subsample subsample_seed '
    'neighbor_count enable_oversampling neighbor_pool_size positions_provided probe_trainable '
    'intensity_scale_trainable output_dir sequential_sampling backend',
    'InferenceConfig': 'model_path test_data_file n_groups n_subsample subsample_seed '
    'neighbor_count enable_oversampling neighbor_pool_size debug output_dir backend',
}

SINCE = {
    'ModelConfig': 'object_layout training_canvas training_patch_weighting probe_mask_sigma '
    'probe_mask_diameter fno_modes fno_width fno_blocks fno_cnn_blocks fno_input_transform '
    'generator_output_mode learned_input_channels max_hidden_channels resnet_width',
    'TrainingConfig': 'torch_loss_mode torch_mae_pred_l2_match_target',
    'InferenceConfig': '',
}
"""These fields came in 2026; those of optimizers and schedules are in `RUN_TIME`."""

OTHERS: dict[str, Any] = {
    'object_layout': 'single_patch',
    'N': 128,
    'gridsize': 2,
    'n_filters_scale': 1,
    'model_type': 'supervised',
    'amp_activation': 'softplus',
    'train_data_file': Path('a/train.npz'),
    'test_data_file': Path('a/test.npz'),
    'model_path': Path('a/model'),
    'output_dir': Path('out'),
    'backend': 'pytorch',
    'batch_size': 7,
    'nepochs': 9,
    'mae_weight': 0.5,
    'nll_weight': 0.25,
    'n_groups': 77,
    'n_images': 78,
    'n_subsample': 79,
    'subsample_seed': 5,
    'neighbor_count': 6,
    'neighbor_pool_size': 11,
    'learning_rate': 2e-4,
    'optimizer': 'adamw',
    'weight_decay': 0.125,
    'gradient_clip_val': 3.0,
    'accum_steps': 4,
    'scheduler': 'Exponential',
}
"""Each field that is honoured has another value here than its default; booleans are inverted."""

NOT_HERE: dict[str, Any] = {
    'probe_scale': 10.0,
    'gaussian_smoothing_sigma': 1.0,
    'realspace_mae_weight': 0.5,
    'realspace_weight': 0.5,
    'nphotons': 1e6,
    'n_groups': 3,
    'neighbor_count': 7,
    'neighbor_pool_size': 9,
    'training_patch_weighting': 'probe',
    'torch_loss_mode': 'mae',
    'adam_beta1': 0.8,
    'adam_beta2': 0.99,
    'gradient_clip_algorithm': 'agc',
    'lr_warmup_epochs': 2,
    'lr_min_ratio': 0.2,
    'plateau_factor': 0.25,
    'plateau_patience': 3,
    'plateau_min_lr': 1e-6,
    'plateau_threshold': 0.5,
}

HONOURED = [item for item in FIELDS if item.ours and item.name != 'architecture']
LEFT_OUT = [item for item in FIELDS if not item.ours and item.policy != 'taken']
WITHOUT_EFFECT = [item for item in FIELDS if not item.ours and item.policy == 'taken']


def label(item: Field) -> str:
    return f'{item.owner}.{item.name}'


def other(item: Field) -> Any:
    return not item.default if isinstance(item.default, bool) else OTHERS[item.name]


def found(settings: legacy.LegacySettings, item: Field) -> Any:
    section, name = item.ours.split('.')
    return getattr(settings if section == 'run' else getattr(settings.config, section), name)


@pytest.fixture
def model_class() -> Any:
    """Return PtychoPINN's ModelConfig as it is documented."""
    return make(
        'ModelConfig', [(name, item.default) for name, item in fields_of('ModelConfig').items()]
    )


def make(name: str, fields: list[tuple[str, Any]]) -> Any:
    return make_dataclass(
        name,
        [(key, Any, field(default_factory=lambda value=value: value)) for key, value in fields],
    )


@pytest.fixture
def training_class(model_class: Any) -> Any:
    fields = [(name, item.default) for name, item in fields_of('TrainingConfig').items()]
    return make('TrainingConfig', [('model', model_class()), *fields])


def test_every_field_of_the_contract_is_there() -> None:
    for owner, names in CONTRACT.items():
        have, since = set(fields_of(owner)), set(SINCE[owner].split())  # type: ignore[arg-type]
        assert set(names.split()) | since <= have
        assert have - set(names.split()) - since <= RUN_TIME


@pytest.mark.parametrize('item', HONOURED, ids=label)
def test_each_field_is_taken(item: Field) -> None:
    before = legacy.from_legacy({}, owner=item.owner)
    value = other(item)
    after = legacy.from_legacy({item.name: value}, owner=item.owner)
    assert found(after, item) != found(before, item)
    assert found(after, item) == item.take(value)
    # And by its name in the flat dictionary.
    flat = legacy.from_legacy({item.flat_name: value}, owner=item.owner)
    assert dataclasses.replace(flat, notes=()) == dataclasses.replace(after, notes=())


@pytest.mark.parametrize('item', LEFT_OUT, ids=label)
def test_each_field_that_is_not_is_named(item: Field, caplog: pytest.LogCaptureFixture) -> None:
    value = not item.default if isinstance(item.default, bool) else NOT_HERE[item.name]
    assert legacy.from_legacy({item.name: item.default}, owner=item.owner).notes == ()
    if item.policy == 'raise':
        with pytest.raises(ConfigError, match=rf'{item.name} = .* not honoured.*Set it to'):
            legacy.from_legacy({item.name: value}, owner=item.owner)
        return
    (note,) = legacy.from_legacy({item.name: value}, owner=item.owner).notes
    assert f'{item.owner}.{item.name} = ' in note
    assert note in caplog.text


@pytest.mark.parametrize('item', WITHOUT_EFFECT, ids=label)
def test_what_has_no_effect_there_either_is_no_note(item: Field) -> None:
    value = 7 if item.kind in (int, float) else 'none of these'
    settings = legacy.from_legacy({item.name: value})
    assert settings.notes == ()
    assert settings.config == legacy.from_legacy({}).config
    assert legacy.to_legacy_dict({item.name: value}).get(item.name) == (
        None if item.name in RUN_TIME else value
    )


def test_the_grouped_dataclasses_of_2026(caplog: pytest.LogCaptureFixture) -> None:
    groups: dict[str, dict[str, Any]] = {
        'data': {'train_data_file': Path('a.npz'), 'test_data_file': None, 'nphotons': 1e9},
        'sampling': {'n_groups': 33, 'n_images': None, 'neighbor_count': 5},
        'loss': {'torch_loss_mode': 'poisson', 'torch_mae_pred_l2_match_target': False},
        'tf_loss': {'mae_weight': 0.5, 'nll_weight': 0.25, 'realspace_weight': 0.0},
        'gradient_clip': {'val': 3.0, 'algorithm': 'norm'},
        'optimizer': {
            'algorithm': 'adamw',
            'weight_decay': 0.125,
            'sgd': {'momentum': 0.9},
            'adam': {'beta1': 0.9, 'beta2': 0.999},
        },
        'scheduler': {'kind': 'Exponential', 'lr_warmup_epochs': 0},
    }
    model = {'N': 128, 'gridsize': 2, 'object_big': None, 'object_layout': 'single_patch'}
    values = {'model': model, 'nepochs': 4, **groups}

    def built(name: str, fields: dict[str, Any]) -> Any:
        parts = {
            key: built(key, value) if isinstance(value, dict) else value
            for key, value in fields.items()
        }
        return make(name, list(parts.items()))()

    ours = legacy.from_legacy(values, owner='TrainingConfig')
    assert legacy.from_legacy(built('TrainingConfig', values)) == ours
    assert caplog.text == ''
    training = ours.config.training
    assert (ours.train_data, training.epochs, training.n_groups) == (Path('a.npz'), 4, 33)
    assert (training.neighbor_count, training.gradient_clip) == (5, 3.0)
    assert (training.amplitude_mae_weight, training.poisson_weight) == (0.5, 0.25)
    assert (training.optimizer, training.weight_decay) == ('adamw', 0.125)
    assert training.schedule == 'exponential'
    assert not ours.config.model.overlap_constraint
    flat = legacy.to_legacy_dict(values)
    assert (flat['train_data_file_path'], flat['n_groups'], flat['nll_weight']) == (
        'a.npz',
        33,
        0.25,
    )
    assert not {*groups, 'algorithm', 'kind'} & set(flat)


@pytest.mark.parametrize(
    ('owner', 'name', 'value', 'found'),
    [
        ('TrainingConfig', 'training_groups', 9, lambda ours: ours.config.training.n_groups),
        ('TrainingConfig', 'train_raw_selection', 9, lambda o: o.config.training.n_subsample),
        ('InferenceConfig', 'inference_raw_selection', 9, lambda ours: ours.n_subsample),
    ],
)
def test_the_newest_names(
    owner: Any, name: str, value: Any, found: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(legacy.from_legacy({name: value}, owner=owner)) == value
    assert found(legacy.from_legacy(make(owner, [(name, value)])())) == value
    assert caplog.text == ''


def test_objects(training_class: Any, model_class: Any) -> None:
    model = model_class(N=128, gridsize=2, n_filters_scale=1)
    settings = training_class(model=model, nepochs=3, train_data_file=Path('x.npz'), n_groups=5)
    ours = legacy.from_legacy(settings)
    assert ours.train_data == Path('x.npz')
    assert ours.config.model == ModelConfig(
        architecture='cnn', pattern_size=128, gridsize=2, filters_scale=1.0
    )
    training = ours.config.training
    assert (training.epochs, training.n_groups, training.batch_size) == (3, 5, 16)
    assert training.intensity_scale_trainable
    # Without a class of that name, by its attributes alone.
    loose = SimpleNamespace(model=SimpleNamespace(N=128), nepochs=3)
    assert legacy.from_legacy(loose).config.model.pattern_size == 128


def test_its_defaults_are_its_own(training_class: Any) -> None:
    assert legacy.from_legacy({}).config == legacy.from_legacy(training_class()).config
    assert legacy.from_legacy({}).config.model.architecture == 'cnn'
    assert legacy.from_legacy({}, base=Config()).config == Config()


def test_round_trip(training_class: Any) -> None:
    taken = {
        item.name: other(item)
        for item in HONOURED
        if item.owner == 'TrainingConfig' and item.name not in SPECIAL
    }
    model = {
        item.name: other(item)
        for item in HONOURED
        if item.owner == 'ModelConfig' and item.name not in SPECIAL
    }
    theirs = training_class(**taken, model=training_class().model.__class__(**model))
    ours = legacy.from_legacy(theirs)
    run = {name: getattr(ours, name) for name in ('train_data', 'test_data', 'output', 'backend')}
    back = legacy.to_legacy(ours.config, 'TrainingConfig', **run)
    assert back == dataclasses.asdict(theirs)
    again = legacy.from_legacy(back)
    assert again == ours
    inference = legacy.to_legacy(
        ours.config, 'InferenceConfig', output=Path('o'), model_path=Path('m')
    )
    assert legacy.from_legacy(inference).config.model == ours.config.model
    assert (inference['output_dir'], inference['model_path']) == (Path('o'), Path('m'))


def test_old_names(caplog: pytest.LogCaptureFixture) -> None:
    both = {'n_groups': 512, 'n_images': 9}
    assert legacy.from_legacy(both).config.training.n_groups == 512
    assert 'n_images is deprecated; n_groups, which is given too, wins: 512' in caplog.text
    # An object has both, so its default was not given.
    assert legacy.from_legacy(SimpleNamespace(**both)).config.training.n_groups == 9
    assert 'n_images is deprecated; it is taken as n_groups' in caplog.text
    assert legacy.from_legacy({'max_epochs': 3}).config.training.epochs == 3
    many = {'neighbor_pool_size': 12, 'neighbor_count': 4}
    assert legacy.from_legacy(many).config.training.neighbor_count == 12


def test_unknown_fields_are_named(caplog: pytest.LogCaptureFixture) -> None:
    legacy.from_legacy({'nepoch': 3, 'fno_depth': 32})
    assert 'no effect: nepoch, fno_depth' in caplog.text


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'architecture': 'fno'}, r'architecture \(model.architecture here\) must be one of'),
        ({'N': 'big'}, r"N \(model.pattern_size here\) must be of type int; got 'big'"),
        ({'nepochs': 0}, r'nepochs \(training.epochs here\) must be at least 1; got 0'),
        ({'nepochs': 50.0}, r'nepochs .* must be of type int; got 50.0'),
        ({'optimizer': 'sgd'}, r'optimizer .* must be one of adam, adamw'),
        (
            {'scheduler': 'MultiStage'},
            r'scheduler \(training.schedule here\) must be one of '
            r"Default, Exponential, WarmupCosine, ReduceLROnPlateau; got 'MultiStage'",
        ),
        ({'scheduler': ['Default']}, r'scheduler .* must be one of'),
        ({'train_data_file': 3}, 'train_data_file must be a path; got 3'),
        ({'model_path': 'm', 'n_subsample': 0}, 'n_subsample .* must be at least 1'),
        ({'model': 'out', 'nepochs': 3}, r"model must be a ModelConfig or a mapping.*got 'out'"),
        ({'positions_provided': False}, 'positions are needed'),
        (3, 'a mapping of their fields'),
    ],
)
def test_refused(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        legacy.from_legacy(settings)


def test_flat_dictionary(training_class: Any, caplog: pytest.LogCaptureFixture) -> None:
    theirs = training_class(train_data_file=Path('d/train.npz'), output_dir=Path('out'))
    flat = legacy.to_legacy_dict(theirs)
    assert flat['object.big'] is True
    assert flat['probe.trainable'] is False
    assert flat['intensity_scale.trainable'] is True
    assert flat['positions.provided'] is True
    assert flat['train_data_file_path'] == 'd/train.npz'
    assert flat['output_prefix'] == 'out'
    assert flat['nphotons'] == 1e9
    assert 'model' not in flat
    assert None not in flat.values()
    assert not RUN_TIME & set(flat)
    assert legacy.to_legacy_dict(legacy.from_legacy(theirs)) == flat
    # From ours, it is the same; what has a default of none there has a number here.
    flat['subsample_seed'] = 0
    ours = legacy.from_legacy(theirs).config
    run = {'train_data': Path('d/train.npz'), 'output': Path('out')}
    assert legacy.to_legacy_dict(ours, **run) == flat
    assert legacy.to_legacy_dict(ours, nphotons=1e5)['nphotons'] == 1e5
    assert caplog.text == ''


def test_update_is_in_place_and_one_way() -> None:
    cfg: dict[str, Any] = {'N': 64, 'offset': 4, 'probe.mask': True, 'n_subsample': 8}
    ours = Config(model=ModelConfig(architecture='cnn', pattern_size=128))
    legacy.update_legacy_dict(cfg, ours)
    # What ours do not hold stays.
    assert (cfg['N'], cfg['offset'], cfg['probe.mask'], cfg['n_subsample']) == (128, 4, True, 8)
    legacy.update_legacy_dict(cfg, legacy.from_legacy({'gridsize': 2}))
    assert (cfg['gridsize'], cfg['probe.mask'], cfg['nphotons']) == (2, True, 1e9)
    legacy.update_legacy_dict(cfg, legacy.from_legacy({'probe_mask': False}), nphotons=1e5)
    assert (cfg['probe.mask'], cfg['nphotons']) == (False, 1e5)
    legacy.update_legacy_dict(cfg, {'nepochs': 3})
    assert (cfg['nepochs'], cfg['gridsize'], cfg['nphotons']) == (3, 1, 1e5)


def everything(owner: Any) -> dict[str, Any]:
    """Return another value than the default for each field that is not refused."""
    items = [item for item in HONOURED + LEFT_OUT if item.owner == owner]
    items = [item for item in items if item.policy != 'raise' and item.name != 'object_layout']
    values = {
        item.name: other(item) if item.ours or item.default is False else NOT_HERE[item.name]
        for item in items
        if item.name != 'architecture'
    }
    return values if owner == 'ModelConfig' else {'model': everything('ModelConfig'), **values}


def one_by_one(owner: Any) -> list[Any]:
    values = everything(owner)
    return [{}, values, *({name: value} for name, value in values.items())]


SETTINGS = [(owner, values) for owner in CONTRACT for values in one_by_one(owner)]


@pytest.mark.parametrize(
    ('owner', 'values'), SETTINGS, ids=[f'{o}-{"-".join([*v][:2])}' for o, v in SETTINGS]
)
def test_the_way_back_gives_the_same_dictionary(owner: Any, values: dict[str, Any]) -> None:
    fields = [(name, item.default) for name, item in fields_of(owner).items()]
    full = make(owner, fields if owner == 'ModelConfig' else [('model', {}), *fields])(**values)
    for theirs in (full, values):
        ours = legacy.from_legacy(theirs)
        flat = legacy.to_legacy_dict(theirs)
        assert legacy.to_legacy_dict(ours) == flat
        again = legacy.from_legacy(legacy.to_legacy(ours), owner=ours.owner)
        assert again.config == ours.config
        assert legacy.to_legacy_dict(again) == flat


def test_what_was_changed_here_is_what_goes_back() -> None:
    ours = legacy.from_legacy({'nepochs': 3, 'neighbor_pool_size': 9, 'nphotons': 1e5})
    training = ours.config.training.replace(epochs=4, neighbor_count=5)
    changed = dataclasses.replace(ours, config=ours.config.replace(training=training))
    flat = legacy.to_legacy_dict(changed)
    assert (flat['nepochs'], flat['neighbor_count'], flat['nphotons']) == (4, 5, 1e5)
    assert 'neighbor_pool_size' not in flat
    inference = legacy.to_legacy(changed, 'InferenceConfig', model_path='m')
    assert (inference['neighbor_count'], inference['model_path']) == (4, 'm')


@pytest.mark.parametrize('kind', ['object', 'mapping', 'file', 'ours', 'settings'])
def test_keyword_arguments_win(training_class: Any, tmp_path: Path, kind: str) -> None:
    pytest.importorskip('yaml')
    (tmp_path / 'a.yaml').write_text('backend: tensorflow\n')
    config = {
        'object': training_class(backend='tensorflow'),
        'mapping': {'backend': 'tensorflow'},
        'file': tmp_path / 'a.yaml',
        'ours': Config(),
        'settings': legacy.from_legacy({'backend': 'tensorflow'}),
    }[kind]
    run = {'backend': 'pytorch', 'train_data': Path('z.npz'), 'nphotons': 1e5, 'probe_mask': True}
    flat = legacy.to_legacy_dict(config, **run)
    target: dict[str, Any] = {'nphotons': 1.0, 'probe.mask': False}
    legacy.update_legacy_dict(target, config, **run)
    for found in (flat, target):
        assert (found['backend'], found['train_data_file_path']) == ('pytorch', 'z.npz')
        assert (found['nphotons'], found['probe.mask']) == (1e5, True)
    with pytest.raises(ConfigError, match="'nphoton' is no field of TrainingConfig"):
        legacy.to_legacy_dict(config, nphoton=3)


def test_our_own_network_has_no_name_there(caplog: pytest.LogCaptureFixture) -> None:
    assert legacy.to_legacy_dict(Config())['architecture'] == 'cnn'
    assert 'sweepnet is not one of PtychoPINN' in caplog.text


def test_the_same_from_panel_command_line_and_python() -> None:
    settings = pytest.importorskip('ptychodus.api.settings')
    from ptychopinn_plugin.host.settings import PluginSettings

    panel = PluginSettings(settings.SettingsRegistry())
    panel.parameters['model.architecture'].set_value_from_string('cnn')
    panel.parameters['training.epochs'].set_value_from_string('12')
    panel.parameters['model.gridsize'].set_value_from_string('2')
    given = {'model': {'architecture': 'cnn', 'gridsize': 2}, 'training': {'epochs': 12}}
    command_line = assemble_config(given)
    python = Config(
        model=ModelConfig(architecture='cnn', gridsize=2), training=TrainingConfig(epochs=12)
    )
    flat = legacy.to_legacy_dict(python)
    assert flat['nepochs'] == 12
    assert legacy.to_legacy_dict(command_line) == flat
    assert legacy.to_legacy_dict(panel.config('pinn')) == flat


def test_yaml(tmp_path: Path) -> None:
    pytest.importorskip('yaml')
    path = tmp_path / 'settings.yaml'
    path.write_text('model:\n  N: 128\n  gridsize: 2\nnepochs: 4\ntrain_data_file: a.npz\n')
    ours = legacy.from_legacy(path)
    assert ours.config.model.pattern_size == 128
    assert (ours.config.training.epochs, ours.train_data) == (4, Path('a.npz'))
    # For PyYAML these are text.
    path.write_text('nphotons: 1e9\nlearning_rate: 1e-3\nnepochs: 5e1\noptimizer: adam\n')
    ours = legacy.from_legacy(path)
    assert ours.notes == ()
    assert (ours.config.training.learning_rate, ours.config.training.epochs) == (1e-3, 50)
    assert legacy.to_legacy_dict(path)['nphotons'] == 1e9
    path.write_text('nepochs: many')
    with pytest.raises(ConfigError, match=r"nepochs .* must be of type int; got 'many'"):
        legacy.from_legacy(path)
    path.write_text('!!python/object/apply:os.system ["true"]')
    with pytest.raises(ConfigError, match='not a readable YAML'):
        legacy.from_legacy(path)
    path.write_text('- 1')
    with pytest.raises(ConfigError, match='must hold names and values'):
        legacy.from_legacy(str(path))
    with pytest.raises(ConfigError, match='not a readable YAML'):
        legacy.from_legacy(tmp_path / 'none.yaml')


@dataclass
class InferenceConfig:
    """Stands for PtychoPINN's class of this name."""

    model: Any = None
    n_groups: int | None = None
    debug: bool = False


def test_the_class_name_tells_whose_fields_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ours = legacy.from_legacy(InferenceConfig(n_groups=9))
    assert ours.config.training.n_groups == legacy.from_legacy({}).config.training.n_groups
    assert 'InferenceConfig.n_groups = 9' in caplog.text


def test_names_are_listed_and_others_refused() -> None:
    assert 'to_legacy_dict' in dir(legacy)
    with pytest.raises(AttributeError, match='nothing'):
        legacy.nothing  # noqa: B018
