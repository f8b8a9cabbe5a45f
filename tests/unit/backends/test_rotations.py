"""In how many rotations a network gets each pattern."""

import pytest

from ptychopinn_plugin.backends.common.prediction import LITTLE_OVERLAP, choose_rotations
from ptychopinn_plugin.config import ModelConfig, Rotations
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.network import describe_network

SWEEPNET = describe_network(ModelConfig(), 32)
CNN = describe_network(ModelConfig(architecture='cnn', pattern_size=64), 64)


@pytest.mark.parametrize(
    ('rule', 'overlap', 'count'),
    [
        ('auto', 0.9 * LITTLE_OVERLAP, 4),
        ('auto', 1.1 * LITTLE_OVERLAP, 1),
        ('one', 1.0, 1),
        ('four', 20.0, 4),
    ],
)
def test_the_rule_and_the_overlap_decide(rule: Rotations, overlap: float, count: int) -> None:
    assert choose_rotations(rule, SWEEPNET, lambda: overlap) == tuple(range(count))


def test_a_network_that_sees_groups_looks_once() -> None:
    assert choose_rotations('auto', CNN, lambda: 1.0) == (0,)
    with pytest.raises(ConfigError, match=r'test_time_rotations = four needs .* is cnn'):
        choose_rotations('four', CNN, lambda: 1.0)
