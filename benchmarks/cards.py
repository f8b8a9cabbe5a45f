"""Predict the rates on cards that nobody here has, from the operations that the loops launch.

    python benchmarks/cards.py [--sizes 64 128] [--batch-sizes 32 2048] [--output cards.json]

PyTorch's fake tensors have shapes and a device and no values. The package's own loops run on them,
and each operation is recorded with its arithmetic and with the bytes that it reads and writes. An
operation takes the longer of both on a processor [1]_, and the computer takes some microseconds
to launch it; the two go on beside each other on a card, so that the slower decides, and one after
the other on a CPU. How much of a peak the arithmetic reaches is measured on this CPU with single
operations, and assumed for cards (`CARDS`). The same prediction for this CPU is compared with what
the loops take on it, which shows how far to trust the rest.

References
----------
.. [1] S. Williams, A. Waterman, D. Patterson, Commun. ACM 52 (2009) 65,
   doi:10.1145/1498765.1498785.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ptychopinn_plugin.backends.common.refinement import IterationState
from ptychopinn_plugin.backends.common.sampling import Batch, SubScan
from ptychopinn_plugin.backends.pytorch import refinement, stitching, training
from ptychopinn_plugin.backends.pytorch.forward import ForwardModel
from ptychopinn_plugin.backends.pytorch.network import Network
from ptychopinn_plugin.backends.pytorch.prediction import predict_patches
from ptychopinn_plugin.bench.machine import measure_peaks
from ptychopinn_plugin.config import Config, ModelConfig
from ptychopinn_plugin.data import Scan
from ptychopinn_plugin.data.probe_variation import ProbeVariation
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.network import describe_network
from ptychopinn_plugin.physics import normalize_probe

CPU, CUDA = torch.device('cpu'), torch.device('cuda', 0)


@dataclass(frozen=True)
class Processor:
    """What a card or a CPU does at most, and how much of it our operations reach.

    Attributes
    ----------
    operations_per_second : float
        In float32, without the rounding of TF32.
    bytes_per_second : float
    launch_s : float
        What the computer takes to launch an operation, Python included.
    convolution, gradient, transform, elsewhere : float
        The share of the peak that convolutions and products reach in arithmetic, the gradients of
        convolutions and Fourier transforms as well, and all other operations in bytes. More than 1
        where what they move stays in a cache.
    is_asynchronous : bool
        Whether the computer queues the next operation while one is carried out.
    """

    operations_per_second: float
    bytes_per_second: float
    launch_s: float
    convolution: float = 0.5
    gradient: float = 0.4
    transform: float = 0.1
    elsewhere: float = 0.8
    is_asynchronous: bool = True


CARDS = {
    'T4': Processor(8.1e12, 0.32e12, 10e-6),
    'V100': Processor(15.7e12, 0.90e12, 10e-6),
    'A100 80 GB': Processor(19.5e12, 2.04e12, 10e-6),
    'L40S': Processor(91.6e12, 0.86e12, 10e-6),
    'H100 SXM': Processor(67e12, 3.35e12, 10e-6),
    'H200': Processor(67e12, 4.8e12, 10e-6),
}
"""The peaks are those that their makers state; what the computer takes for an operation, and the
shares, are assumptions of ours."""


@dataclass(frozen=True)
class Operation:
    """One operation of a loop: what it is, its arithmetic, and the bytes it reads and writes."""

    name: str
    operations: float
    bytes: float

    @property
    def kind(self) -> str:
        """The attribute of `Processor` with the share of the peak that it reaches."""
        if 'convolution_backward' in self.name:
            return 'gradient'
        if 'convolution' in self.name or self.name.strip('_') in ('mm', 'bmm', 'addmm', 'baddbmm'):
            return 'convolution'
        return 'transform' if 'fft' in self.name else 'elsewhere'

    def seconds(self, processor: Processor) -> float:
        """Return what a processor takes for it once it begins."""
        share: float = getattr(processor, self.kind)
        if self.kind == 'elsewhere':
            return self.bytes / (share * processor.bytes_per_second)
        arithmetic = self.operations / (share * processor.operations_per_second)
        return max(arithmetic, self.bytes / processor.bytes_per_second)


class Recorder(TorchDispatchMode):
    """Keeps the operations that a processor would carry out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []

    def __torch_dispatch__(
        self, operation: Any, kinds: Any, arguments: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        found = operation(*arguments, **(named or {}))
        name = operation.overloadpacket.__name__
        if operation.namespace == 'aten' and not operation.is_view and 'empty' not in name:
            inputs, outputs = _tensors(arguments), _tensors(found)
            moved = sum(each.numel() * each.element_size() for each in [*inputs, *outputs])
            self.found.append(Operation(name, _arithmetic(name, arguments, inputs, outputs), moved))
        return found


def _tensors(values: Any) -> list[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _arithmetic(
    name: str, arguments: tuple[Any, ...], inputs: list[torch.Tensor], outputs: list[torch.Tensor]
) -> float:
    """Return the operations of a transform, a convolution or a product, or one for each pixel."""
    if 'fft' in name:
        sides = [inputs[0].shape[axis] for axis in arguments[1]]
        return 5 * inputs[0].numel() * math.log2(math.prod(sides))
    if name == 'convolution_backward':
        gradient, _, weight = inputs[:3]
        # One convolution for the gradient of the images, and one for that of the weights.
        return 4 * gradient.numel() * weight.numel() / weight.shape[0]
    if 'convolution' in name:
        weight = inputs[1]
        return 2 * outputs[0].numel() * weight.numel() / weight.shape[0]
    if name in ('mm', 'bmm'):
        return 2 * outputs[0].numel() * inputs[0].shape[-1]
    return sum(each.numel() for each in outputs)


@dataclass(frozen=True)
class Loop:
    """One batch of a loop of the package on a device.

    Attributes
    ----------
    what : str
    patterns : int
        Of a batch.
    run : callable
        It computes a batch.
    """

    what: str
    patterns: int
    run: Callable[[], Any]


def loops(scan: Scan, device: torch.device) -> list[Loop]:
    """Return a batch of all patterns of a scan in each loop, as the built-in layers compute it."""
    size, n_patterns = scan.pattern_shape[0], len(scan)
    probe = torch.from_numpy(normalize_probe(scan.probe, scan.mean_photons()))
    forward = ForwardModel(scan, probe, device)
    object_, where = forward.flat_object(), np.arange(n_patterns)
    layers = describe_network(ModelConfig(), size)
    with device:
        network = Network(layers).requires_grad_(False)
    groups = torch.from_numpy(where[:, None]).to(device)

    def predict() -> Any:
        with torch.no_grad():
            return predict_patches(
                network, forward, groups, object_, is_flat=False, host_groups=where[:, None]
            )

    patches = predict()

    def stitch() -> Any:
        with torch.no_grad():
            stitcher = stitching.Stitcher(forward, object_)
            stitcher.add([patches], phase_synchronization=False)
            return stitcher.object_()

    state = IterationState(
        object_,
        torch.zeros_like(object_),
        forward.probe,
        forward.moves_px,
        forward.intensities,
        ProbeVariation(forward.eigenmodes, forward.opr_weights),
    )

    def iterate() -> Any:
        with torch.no_grad():
            refinement.iterate_once(forward, state, [where], 0.1, False)

    return [
        Loop('prediction, one pass', n_patterns, predict),
        Loop('stitching, one pass', n_patterns, stitch),
        Loop('iteration', n_patterns, iterate),
    ]


class FixedProbes(training.TrainableProbes):
    """Probes that training leaves as they are; a fake scale has no value to be read."""

    intensity_scale = 1.0


def training_loop(scan: Scan) -> Loop:
    """Return the gradient and the step of a batch of all patterns, on the CPU.

    Fake gradients need a real card, or none at all; the operations are the same.
    """
    size, n_patterns = scan.pattern_shape[0], len(scan)
    probe = torch.from_numpy(normalize_probe(scan.probe, scan.mean_photons()))
    forward = ForwardModel(scan, probe, CPU)
    config = Config()
    network = Network(describe_network(config.model, size))
    step = training.PyTorchStep(network, [], FixedProbes([], 1.0, config.training), config)
    where = np.arange(n_patterns)
    part = forward.subset(where)
    subscan = SubScan(
        training_scan_index=0,
        exposure=1.0,
        forward=part,
        groups=where[:, None],
        objects=[part.flat_object()],
        labels=part.flat_object(),
        label_coverage=torch.ones(part.canvas_shape),
    )
    batch = Batch(subscan, 0, subscan.groups)

    def train() -> None:
        torch.stack(list(step.losses(batch).values())).sum().backward()
        step.step(1e-3)

    return Loop('training step', n_patterns, train)


def record(make: Callable[[], list[Loop]]) -> dict[str, list[Operation]]:
    """Return the operations of each loop, run with fake tensors."""
    found = {}
    free = patch.object(torch.cuda, 'mem_get_info', lambda *_: (80 << 30, 80 << 30))
    with free, FakeTensorMode():
        for loop in make():
            with Recorder() as recorder:
                loop.run()
            found[loop.what] = recorder.found
    return found


def predicted_seconds(operations: list[Operation], processor: Processor) -> float:
    """Return what a processor takes for all of the operations."""
    launches = len(operations) * processor.launch_s
    computed = sum(operation.seconds(processor) for operation in operations)
    return max(launches, computed) if processor.is_asynchronous else launches + computed


def measured_seconds(run: Callable[[], Any], least_s: float = 1.0) -> float:
    """Return the median of several calls, after one that does not count."""
    run()
    found: list[float] = []
    begun = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begun < least_s:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return median(found)


def measure_processor(size: int, batch_size: int) -> Processor:
    """Return this CPU: its peaks, and the shares of them that single operations reach."""
    peaks = measure_peaks()
    whole = Processor(
        peaks.operations_per_second, peaks.bytes_per_second, 0.0, 1.0, 1.0, 1.0, 1.0, False
    )
    waves = torch.randn(batch_size, size, size, dtype=torch.complex64)
    real, where = waves.abs(), torch.randperm(batch_size)
    # The middle layers of the network: 32 channels on a quarter of the window's pixels.
    images = torch.randn(batch_size, 32, 20, 20).to(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)
    trained = layer(images.requires_grad_())
    one = torch.ones(1)
    launch_s = measured_seconds(lambda: [one.add(1.0) for _ in range(1000)]) / 1000
    single: dict[str, Callable[[], Any]] = {
        'convolution': lambda: layer(images),
        'gradient': lambda: trained.backward(trained.detach(), retain_graph=True),
        'transform': lambda: torch.fft.fft2(waves),
        # Those that the loops have most of.
        'elsewhere': lambda: (
            *(waves * waves, waves / 2.0, waves.clone(), waves.index_select(0, where)),
            *(real + real, real.sqrt(), real.relu(), torch.stack([real, real])),
        ),
    }
    shares = {}
    for kind, run in single.items():
        with Recorder() as recorder:
            run()
        parts = [operation for operation in recorder.found if operation.kind == kind]
        shares[kind] = sum(part.seconds(whole) for part in parts) / measured_seconds(run)
    return replace(whole, launch_s=launch_s, **shares)


def rows_of(size: int, batch_size: int) -> list[dict[str, Any]]:
    """Return the predicted and the measured rates of each loop."""
    scan = simulate(SimulationConfig(size=size, n_positions=batch_size, seed=1))
    here = measure_processor(size, batch_size)
    on_card = record(lambda: loops(scan, CUDA)) | record(lambda: [training_loop(scan)])
    on_cpu = record(lambda: loops(scan, CPU)) | record(lambda: [training_loop(scan)])
    rows = []
    for loop in [*loops(scan, CPU), training_loop(scan)]:
        took_s = measured_seconds(loop.run)
        cards = {
            name: loop.patterns / predicted_seconds(on_card[loop.what], card)
            for name, card in CARDS.items()
        }
        rows.append(
            {
                'what': loop.what,
                'size': size,
                'batch_size': batch_size,
                'operations': len(on_card[loop.what]),
                'CPU measured': loop.patterns / took_s,
                'CPU predicted': loop.patterns / predicted_seconds(on_cpu[loop.what], here),
                **cards,
            }
        )
        print(' | '.join(_rounded(value) for value in rows[-1].values()), flush=True)
    print(f'this CPU: {asdict(here)}')
    return rows


def _rounded(value: Any) -> str:
    return f'{value:,.0f}' if isinstance(value, float) else str(value)


def main() -> None:
    """Print a row for each loop, size and batch size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sizes', nargs='+', type=int, default=[64, 128])
    parser.add_argument('--batch-sizes', nargs='+', type=int, default=[32, 2048])
    parser.add_argument('--output', type=Path, help='where all of it goes as JSON')
    options = parser.parse_args()
    names = ['what', 'size', 'batch', 'operations', 'CPU measured', 'CPU predicted', *CARDS]
    print(' | '.join(names))
    rows = [
        row
        for size in options.sizes
        for batch_size in options.batch_sizes
        for row in rows_of(size, batch_size)
    ]
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
