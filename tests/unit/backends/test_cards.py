"""The program that predicts rates on cards: what it records of the loops, and what follows."""

from dataclasses import replace

import pytest
from programs import load_program

from ptychopinn_plugin.data.simulation import SimulationConfig, simulate

torch = pytest.importorskip('torch')
cards = load_program('benchmarks/cards.py')


def test_a_product_has_its_arithmetic_and_its_bytes() -> None:
    left, right = torch.ones(4, 8), torch.ones(8, 16)
    with cards.Recorder() as recorder:
        left @ right
    (product,) = recorder.found
    assert product.kind == 'convolution'
    assert product.operations == 2 * 4 * 8 * 16
    assert product.bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def test_a_transform_has_its_arithmetic() -> None:
    waves = torch.ones(3, 16, 32, dtype=torch.complex64)
    with cards.Recorder() as recorder:
        torch.fft.fft2(waves)
    transforms = [one for one in recorder.found if one.kind == 'transform']
    # 5 n log2(n) for n complex values, of each of the three waves.
    assert sum(one.operations for one in transforms) == 5 * 3 * 512 * 9


def test_rates_of_every_loop_are_predicted() -> None:
    scan = simulate(SimulationConfig(size=32, n_positions=12))
    found = cards.record(lambda: cards.loops(scan, cards.CUDA))
    found |= cards.record(lambda: [cards.training_loop(scan)])
    assert list(found) == [
        'prediction, one pass',
        'stitching, one pass',
        'iteration',
        'training step',
    ]
    for what, operations in found.items():
        kinds = {operation.kind for operation in operations}
        assert ('gradient' in kinds) == (what == 'training step'), what
        for card in cards.CARDS.values():
            slow = cards.predicted_seconds(operations, card)
            # Of a batch this small the computer's calls decide, and no peak of the card does.
            assert slow == pytest.approx(len(operations) * card.launch_s)
            large = cards.predicted_seconds(operations, replace(card, launch_s=0.0))
            assert 0 < large < slow


def test_the_loops_run_on_this_computer() -> None:
    scan = simulate(SimulationConfig(size=32, n_positions=12))
    for loop in [*cards.loops(scan, cards.CPU), cards.training_loop(scan)]:
        assert loop.patterns == 12
        assert cards.measured_seconds(loop.run, least_s=0.0) > 0
