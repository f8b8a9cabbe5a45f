"""The state of a run: rounding, size, and how a run goes on from it."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.errors import ArchiveError, ConfigError
from ptychopinn_plugin.model_file import read_model
from ptychopinn_plugin.pretraining import corpus
from ptychopinn_plugin.pretraining.recipe import Recipe
from ptychopinn_plugin.pretraining.state import from_bfloat16, read_state, to_bfloat16

pytest.importorskip('torch')

from ptychopinn_plugin.model_file import write_model
from ptychopinn_plugin.pretraining.learner import Learner

TINY = Recipe(
    scans=1, steps=3, first_rounds=0, crops=2, crop_px=24, rounds=4, warmup_steps=2, bare_until=-1
)


@pytest.fixture(scope='module', autouse=True)
def few_patterns() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, 'WINDOWS_PX', (16,))
        patch.setattr(corpus, 'WINDOW_PROBABILITIES', (1.0,))
        patch.setattr(corpus, 'PATTERN_SIZES_PX', (24,))
        patch.setattr(corpus, 'MAX_TASK_PATTERNS', 6)
        patch.setattr(corpus, 'MAX_SINGLE_SHOTS', 6)
        patch.setattr(corpus, 'MIN_TASK_PATTERNS', 4)
        yield


@pytest.fixture(scope='module')
def learner(few_patterns: None) -> Learner:
    return Learner(TINY)


@pytest.fixture(scope='module')
def first(learner: Learner) -> dict[str, np.ndarray]:
    # Another learner of the same seed would begin alike only where no thread of another test
    # draws from PyTorch's one generator meanwhile.
    return learner.weights()


@pytest.fixture(scope='module')
def trained(learner: Learner, first: dict[str, np.ndarray]) -> Learner:
    learner.train_round()
    return learner


def test_halves_of_float32_keep_three_digits_at_any_size() -> None:
    values = np.array([0.0, 1.0, -3.14159, 1e-12, 7e20, -1e-30], dtype=np.float32)
    back = from_bfloat16(to_bfloat16(values))
    np.testing.assert_allclose(back, values, rtol=2**-8)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(back)), back)


def test_training_moves_the_weights_and_the_average_follows(
    trained: Learner, first: dict[str, np.ndarray]
) -> None:
    newest = trained.network.numpy_weights()
    assert min(np.abs(newest[name] - first[name]).max() for name in first) > 0
    for name, weight in trained.weights().items():
        assert 0 < np.abs(weight - first[name]).max() <= np.abs(newest[name] - first[name]).max()


def test_a_run_goes_on_from_its_state_always_alike(tmp_path: Path) -> None:
    whole = Learner(TINY)
    whole.train_round()
    whole.save(tmp_path / 'state.zip')
    losses = []
    for _ in range(2):
        resumed = Learner(TINY)
        resumed.load(tmp_path / 'state.zip')
        assert (resumed.round, resumed.step) == (1, 3)
        assert len(resumed.buffer) > 0
        for name, weight in whole.network.numpy_weights().items():
            np.testing.assert_array_equal(resumed.network.numpy_weights()[name], weight)
        losses.append(resumed.train_round())
    assert losses[0] == losses[1]


def test_crops_turn_what_goes_in_and_what_is_wanted_alike(trained: Learner) -> None:
    """The correction that is wanted stays the same function of the images."""
    estimate = dataclasses.replace(
        trained.buffer[0], wanted=trained.buffer[0].images[:2].astype(np.float32)
    )
    for seed in range(8):
        crop = estimate.crop(24, np.random.default_rng(seed))
        np.testing.assert_array_equal(crop.wanted, crop.images[:2])
        assert crop.weight.shape == (1, 24, 24)


def test_the_state_is_small_and_a_model(tmp_path: Path, trained: Learner) -> None:
    path = tmp_path / 'state.zip'
    trained.save(path)
    assert path.stat().st_size < 2_000_000
    model = read_model(path)
    assert model.config.model.pattern_size is None
    assert all(weight.dtype == np.float32 for weight in model.weights.values())
    write_model(tmp_path / 'model.zip', trained.model())
    assert (tmp_path / 'model.zip').stat().st_size < 600_000


def test_another_seed_does_not_go_on(tmp_path: Path, trained: Learner) -> None:
    trained.save(tmp_path / 'state.zip')
    with pytest.raises(ConfigError, match='of seed 16; the recipe has 3'):
        Learner(dataclasses.replace(TINY, seed=3)).load(tmp_path / 'state.zip')
    write_model(tmp_path / 'model.zip', trained.model())
    with pytest.raises(ArchiveError, match='must hold the state of a pretraining run'):
        read_state(tmp_path / 'model.zip')


def test_the_learning_rate_warms_up_and_cools_down() -> None:
    recipe = Recipe(rounds=100, cooldown=0.2, warmup_steps=10, learning_rate=1.0)
    assert recipe.learning_rate_at(0, 0) == pytest.approx(0.1)
    assert recipe.learning_rate_at(50, 500) == 1.0
    assert recipe.learning_rate_at(90, 900) == pytest.approx(0.52)
    assert recipe.learning_rate_at(99, 990) == pytest.approx(0.07)


def test_the_framework_is_imported_where_it_is_used() -> None:
    code = (
        'import sys\n'
        'import ptychopinn_plugin.pretraining.__main__\n'
        'import ptychopinn_plugin.pretraining.corpus\n'
        'assert "torch" not in sys.modules and "tensorflow" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
