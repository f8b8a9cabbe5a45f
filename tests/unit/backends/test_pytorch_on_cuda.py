"""PyTorch's loops on a CUDA device that is not there.

Fake tensors have a shape and a device, and no values: the package's own code runs on them as it
would on a card. It ends with an error where tensors of two devices meet, and where the computer
reads a value, which on a card waits for all that was queued. So these tests show whether a
loop runs through without a wait, how often it copies, and of how many operations it is made. That
the values are right is shown by the other tests, on the CPU.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from programs import load_program

from ptychopinn_plugin.backends.common.constraints import ConstraintKeeper, ObjectConstraints
from ptychopinn_plugin.backends.common.iteration_schedule import IterationSchedule
from ptychopinn_plugin.backends.common.requests import IterationRequest
from ptychopinn_plugin.backends.common.sampling import Batch, SubScan
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.network import NetworkDescription, describe_network
from ptychopinn_plugin.physics import normalize_probe

torch = pytest.importorskip('torch')
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from ptychopinn_plugin.backends.common.refinement import IterationState
from ptychopinn_plugin.backends.pytorch import (
    constraints,
    intensities,
    phase_drift,
    positions,
    refinement,
    stitching,
    training,
)
from ptychopinn_plugin.backends.pytorch.device import keep_triton_out
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import predict_patches

cards = load_program('benchmarks/cards.py')

CUDA = torch.device('cuda', 0)
PATTERNS, SIZE = 40, 32

Recorded = tuple[Any, 'Recorder']


class Recorder(TorchDispatchMode):  # type: ignore[misc]
    """Counts operations that a card would carry out, and copies to and from it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.uploads = self.downloads = 0

    def __torch_dispatch__(
        self, operation: Any, kinds: Any, arguments: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        found = operation(*arguments, **(named or {}))
        name = operation.overloadpacket.__name__
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        if name in ('_to_copy', 'copy_') and isinstance(found, torch.Tensor):
            source = tensors[-1].device.type
            self.uploads += (source, found.device.type) == ('cpu', 'cuda')
            self.downloads += (source, found.device.type) == ('cuda', 'cpu')
        if operation.namespace == 'aten' and not operation.is_view and 'empty' not in name:
            self.kernels[name] += 1
        return found

    @property
    def transforms(self) -> int:
        """How many batches of Fourier transforms there were."""
        return self.kernels['_fft_c2c']


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """A card of 80 GB that holds shapes alone."""
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda *_: (80 << 30, 80 << 30))
    # The mode loads Triton, which ends the process where somebody has loaded TensorFlow before.
    keep_triton_out()
    with FakeTensorMode() as mode:
        yield mode


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate(
        SimulationConfig(
            size=SIZE, n_positions=PATTERNS, pupil_radius=0.12, defocus=100.0, dead_pixels=3
        )
    )


@pytest.fixture
def forward(scan: Scan, fake: FakeTensorMode) -> ForwardModel:
    probe = normalize_probe(scan.probe, scan.mean_photons())
    return ForwardModel(scan, torch.from_numpy(probe), CUDA, reach_px=2)


def recorded(compute: Callable[[], Any]) -> Recorded:
    """Run something that must not wait for the card, and return what it returns."""
    with Recorder() as recorder, torch.no_grad():
        found = compute()
    assert recorder.downloads == 0
    return found, recorder


def until_read(compute: Callable[[], Any]) -> 'Recorder':
    """Run something up to the first value that the computer reads, and return what ran so far."""
    with Recorder() as recorder, pytest.raises((RuntimeError, DataDependentOutputException)) as end:
        compute()
    is_read = isinstance(end.value, (DataDependentOutputException, DynamicOutputShapeException))
    assert is_read or '.numpy() is not supported' in str(end.value) or 'tolist' in str(end.value)
    assert recorder.downloads <= 1
    return recorder


def on_card(tensor: Any) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.device == CUDA


def network(layers: NetworkDescription) -> Network:
    with CUDA:
        return Network(layers)


def test_a_forward_model_lies_on_the_card(forward: ForwardModel) -> None:
    names = ('amplitudes', 'valid_mask', 'probe', 'coverage', 'patch_origins', 'subpixel_shifts')
    assert all(on_card(getattr(forward, name)) for name in names)
    part, recorder = recorded(lambda: forward.subset(np.arange(3, 20)))
    assert all(on_card(getattr(part, name)) for name in names)
    assert recorder.uploads <= 4


@pytest.mark.parametrize('refine_probe', [False, True])
def test_an_iteration_never_waits(forward: ForwardModel, refine_probe: bool) -> None:
    object_ = forward.flat_object()
    batches = list(np.random.default_rng(0).permutation(PATTERNS).reshape(5, 8))
    state = IterationState(
        object_,
        torch.zeros_like(object_),
        forward.probe,
        forward.moves_px,
        forward.intensities,
        ProbeVariation(forward.eigenmodes, forward.opr_weights),
    )
    with Recorder() as recorder, torch.no_grad():
        refinement.iterate_once(forward, state, batches, 0.1, False)
    assert on_card(state.object_)
    assert recorder.downloads == 0
    assert recorder.uploads == 1, 'the order of the patterns is copied once'
    assert recorder.transforms == 2 * len(batches)
    assert sum(recorder.kernels.values()) <= 65 * len(batches)
    if refine_probe:
        with Recorder() as recorder, torch.no_grad():
            refinement.iterate_once(forward, state, batches, 0.1, True)
        assert on_card(state.probe)
        assert recorder.downloads == 0
        assert sum(recorder.kernels.values()) <= 125 * len(batches)


def test_the_update_of_all_patterns_never_waits(forward: ForwardModel) -> None:
    update, recorder = recorded(lambda: refinement.mean_update(forward, forward.flat_object()))
    assert on_card(update)
    assert recorder.uploads == 0


@pytest.mark.parametrize(
    'judge',
    [
        lambda forward, object_: forward.evaluate_loss(object_, 8),
        lambda forward, object_: forward.evaluate_fit(object_, 8),
    ],
    ids=['loss', 'fit'],
)
def test_an_object_is_judged_in_one_look(
    forward: ForwardModel, judge: Callable[[Any, Any], Any]
) -> None:
    recorder = until_read(lambda: judge(forward, forward.flat_object()))
    # All batches were queued before the first look.
    assert recorder.transforms == PATTERNS // 8


@pytest.mark.parametrize('object_type', ['complex', 'amplitude', 'phase'])
def test_constraints_never_wait(forward: ForwardModel, object_type: Any) -> None:
    known = ObjectConstraints(object_type, 0.5, 1.5)
    request = IterationRequest(
        IterationSchedule(1), refine_probe=True, constraints=known, probe_radius_px=9.0
    )
    keeper: Any = ConstraintKeeper(refinement.ITERATION_KERNELS, forward, request)
    object_ = forward.flat_object()
    for compute in (
        lambda: keeper.in_bounds(object_, forward.probe),
        lambda: keeper.supported(forward.probe),
    ):
        found, recorder = recorded(compute)
        assert on_card(found)
        assert recorder.uploads == 0
        assert sum(recorder.kernels.values()) <= 30


def test_a_proximal_step_never_waits(forward: ForwardModel) -> None:
    known = ObjectConstraints(total_variation=0.25)
    object_ = forward.flat_object()
    found, recorder = recorded(
        lambda: constraints.constrain(object_, forward.coverage, known, 0.1, 1.0)
    )
    assert on_card(found)
    assert recorder.uploads == 0
    assert sum(recorder.kernels.values()) <= 25 * known.dual_steps
    # What it costs stays there until the loss is known.
    variation, recorder = recorded(lambda: constraints.object_variation(object_))
    assert on_card(variation)
    assert recorder.uploads == 0
    assert sum(recorder.kernels.values()) <= 15


def test_positions_are_drawn_in_one_look(forward: ForwardModel) -> None:
    recorder = until_read(lambda: positions.position_forces(forward, forward.flat_object(), 1.0))
    assert recorder.transforms == 3


@pytest.mark.parametrize(
    ('measure', 'transforms'),
    [(intensities.pattern_photons, 1), (phase_drift.measure_moments, 3)],
    ids=['photons', 'moments'],
)
def test_beams_are_measured_in_one_look(
    forward: ForwardModel, measure: Callable[[Any, Any], Any], transforms: int
) -> None:
    forward.set_intensities(np.linspace(0.9, 1.1, PATTERNS))
    recorder = until_read(lambda: measure(forward, forward.flat_object()))
    assert recorder.transforms == transforms


@pytest.mark.parametrize('rotations', [(0,), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    'changes', [{}, {'gridsize': 2}, {'architecture': 'cnn'}], ids=['sweepnet', 'groups', 'cnn']
)
def test_prediction_and_stitching_never_wait(
    scan: Scan, fake: FakeTensorMode, changes: dict[str, Any], rotations: tuple[int, ...]
) -> None:
    size = 64 if 'architecture' in changes else SIZE
    if size != SIZE:
        scan = simulate(SimulationConfig(size=size, n_positions=PATTERNS))
    forward = ForwardModel(scan, torch.from_numpy(scan.probe), CUDA)
    config = ModelConfig.from_dict({'filters_scale': 0.25, 'pattern_size': size, **changes})
    layers = describe_network(config, size)
    groups = np.arange(PATTERNS).reshape(-1, layers.group_size)
    built, object_ = network(layers), forward.flat_object()
    where = torch.from_numpy(groups).to(CUDA)

    def predict() -> list[Any]:
        return [
            predict_patches(
                built,
                forward,
                where[part],
                object_,
                is_flat=False,
                rotations=rotations,
                host_groups=groups[part],
            )
            for part in (slice(0, 4), slice(4, None))
        ]

    parts, recorder = recorded(predict)
    assert all(on_card(part.values) for part in parts)
    assert recorder.uploads == 0

    def stitch() -> Any:
        stitcher = stitching.Stitcher(forward, object_)
        stitcher.add(parts, phase_synchronization=False)
        return stitcher.object_()

    found, recorder = recorded(stitch)
    assert on_card(found)
    assert recorder.uploads == 0
    # The phases are the one thing that is solved on the computer, once for all patches of a block.
    until_read(lambda: stitching.Stitcher(forward, object_).add(parts, phase_synchronization=True))


@pytest.mark.parametrize('gridsize', [1, 2])
def test_the_losses_of_a_batch_never_wait(forward: ForwardModel, gridsize: int) -> None:
    step, batch = training_step(forward, gridsize, CUDA)
    with Recorder() as recorder:
        terms = step.losses(batch)
    assert all(on_card(value) for value in terms.values())
    assert recorder.downloads == 0
    assert recorder.uploads <= 1, 'the groups are copied, and nothing else'


@pytest.mark.parametrize('gridsize', [1, 2])
def test_a_training_step_looks_once(scan: Scan, fake: FakeTensorMode, gridsize: int) -> None:
    # Gradients need a real card, or none: here they are those of a computer without values.
    cpu = torch.device('cpu')
    forward = ForwardModel(scan, torch.from_numpy(scan.probe), cpu)
    step, batch = training_step(forward, gridsize, cpu)
    recorder = until_read(lambda: step.accumulate_gradients(batch))
    assert any(name.endswith('convolution_backward') for name in recorder.kernels)
    assert all(weight.grad is not None for weight in step.network.parameters())
    with Recorder() as recorder:
        step.step(1e-3)
    assert recorder.kernels, 'the optimizer has done something, and has read no value'


def training_step(
    forward: ForwardModel, gridsize: int, device: torch.device
) -> tuple[training.PyTorchStep, Batch]:
    """Return what trains a small network, and a batch of a sub-scan."""
    config = Config.from_dict({'model': {'filters_scale': 0.25, 'gridsize': gridsize}})
    with device:
        built = Network(describe_network(config.model, SIZE))
        probes = cards.FixedProbes([], 1.0, config.training)
    part = forward.subset(np.arange(16))
    subscan = SubScan(
        training_scan_index=0,
        exposure=1.0,
        forward=part,
        groups=np.arange(16).reshape(-1, gridsize**2),
        objects=[part.flat_object()],
        labels=part.flat_object(),
        label_coverage=torch.ones(part.canvas_shape, device=device),
    )
    return training.PyTorchStep(built, [], probes, config), Batch(subscan, 0, subscan.groups)
