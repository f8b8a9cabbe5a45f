"""One schema for settings and manifests, and errors that name what was expected and what came."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from unit.model_file.members import change_manifest, members_of

from ptychopinn_plugin.config import Config
from ptychopinn_plugin.errors import ArchiveError, ConfigError
from ptychopinn_plugin.model import Model
from ptychopinn_plugin.model_archive import BUILT_IN_PATH
from ptychopinn_plugin.model_file import read_model, write_model
from ptychopinn_plugin.schemas import SCHEMAS, config_schema, manifest_schema, to_text, validate

DOCS = Path(__file__).parents[2] / 'docs' / 'schemas'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / 'model.zip'
    write_model(target, Model.built_in())
    return target


@pytest.mark.parametrize('name', SCHEMAS)
def test_the_published_schemas_are_those_in_force(name: str) -> None:
    """To write them again: python -m ptychopinn_plugin.schemas NAME > docs/schemas/NAME.json."""
    assert (DOCS / f'{name}.json').read_text() == to_text(name)


def test_what_this_package_writes_is_allowed() -> None:
    validate(json.loads(members_of(BUILT_IN_PATH)['manifest.json']), manifest_schema(), 'manifest')
    validate(Config().to_dict(), config_schema(), 'config', ConfigError)


@pytest.mark.parametrize(
    ('place', 'value', 'reported'),
    [
        ('network.passes', 10**9, 'at most 100; got 1000000000'),
        ('network.passes', 0, 'at least 1'),
        ('network.window_px', 'x', "a whole number at least 1 and at most 4096; got 'x'"),
        ('network.window_px', 8.5, 'a whole number'),
        ('network.window_px', True, 'a whole number'),
        ('network.iterations_between', -1, 'at least 0'),
        ('network.layers', {}, 'a list'),
        ('network.architecture', 'other', 'one of sweepnet, cnn, prior'),
        ('network.outputs', ['nowhere'], "no layer 'nowhere'"),
        ('network.more', 1, "no field 'more'"),
        ('config.refinement.iterations', 10**9, 'at most 1000000'),
        ('config.refinement.batch_size', 'x', 'a whole number'),
        ('config.training', [], 'an object with fields'),
        ('normalisation.photons', None, 'a finite number'),
        ('normalisation.photons', float('nan'), 'NaN is no number of JSON'),
        ('normalisation.intensity_scale', 0, 'above 0'),
        ('backend', 7, 'a text'),
        ('data_summary', 'x', 'an object with fields'),
        ('provenance', [], 'an object with fields'),
        ('sha256', 'x', 'an object with fields'),
    ],
)
def test_a_manifest_of_wrong_values_is_refused(
    path: Path, place: str, value: Any, reported: str
) -> None:
    def change(manifest: dict[str, Any]) -> None:
        *folders, name = place.split('.')
        for folder in folders:
            manifest = manifest[folder]
        manifest[name] = value

    change_manifest(path, change)
    with pytest.raises(ArchiveError) as caught:
        read_model(path)
    assert reported in str(caught.value)


def test_settings_and_schema_have_the_same_limits() -> None:
    """What one refuses the other refuses, at both ends of every range."""
    schema = config_schema()['properties']
    for section, hint in typing.get_type_hints(Config).items():
        for item in dataclasses.fields(hint):
            part = schema[section]['properties'][item.name]
            low, high = part.get('minimum'), part.get('maximum')
            beyond = [] if low is None else [low - 1]
            beyond += [] if high is None else [high + 1]
            for value in (*beyond, ['no setting is a list']):
                with pytest.raises(ConfigError):
                    Config.from_dict({section: {item.name: value}})
                with pytest.raises(ConfigError, match=item.name):
                    validate({item.name: value}, schema[section], section, ConfigError)
            for value in (low, high):
                if value is not None:
                    Config.from_dict({section: {item.name: value}})
                    validate({item.name: value}, schema[section], section, ConfigError)
