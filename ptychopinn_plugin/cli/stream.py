"""`ptychopinn stream`: reconstruct while the scan runs."""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptychopinn_plugin.cli.common import pair_of, reading_geometry, report
from ptychopinn_plugin.cli.options import (
    READING,
    AsJson,
    BackendName,
    Given,
    Output,
    ScanReading,
    Section,
    takes_settings,
)
from ptychopinn_plugin.cli.outputs import staged_outputs, to_json, write_json
from ptychopinn_plugin.cli.reconstruct import (
    RECONSTRUCTION_FILES,
    REFINEMENT,
    reconstruct_staged,
)
from ptychopinn_plugin.cli.settings import assemble_config
from ptychopinn_plugin.cli.signals import stopping_at_signal
from ptychopinn_plugin.config import InferenceConfig
from ptychopinn_plugin.errors import ConfigError, DataError, OutputError
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.streaming.settings import StreamSettings
from ptychopinn_plugin.text import count

if TYPE_CHECKING:
    from ptychopinn_plugin.data import Reconstruction
    from ptychopinn_plugin.streaming.assembly import ScanRules
    from ptychopinn_plugin.streaming.live import LiveReconstruction
    from ptychopinn_plugin.streaming.reception import Reception
    from ptychopinn_plugin.streaming.store import PatternStore

_SCAN_FILE, _RECEIVED_FILE, _SUMMARY_FILE = 'scan.npz', 'received.npz', 'summary.json'
_LIVE_FILES = ('product.h5', 'reconstruction.png')
_STREAM_FILES = (*RECONSTRUCTION_FILES, _SCAN_FILE, _SUMMARY_FILE)

_ANNOUNCEMENT = b'Receiving ends here; what has come is finished. Ctrl-C again leaves at once.\n'

_OF_FILES = (
    'domain',
    'reader',
    'positions',
    'positions_reader',
    'scan_step_m',
    'scan_shape',
    'allow_links',
    'frame_margin_px',
)
"""A stream does not have these options of reading scan files."""

_AT_RECEIPT = (
    'product',
    'probe_from',
    'probe_from_patterns',
    'mask',
    'beam_center',
    'photon_energy_eV',
    'electron_energy_eV',
    'detector_distance_m',
    'detector_pixel_m',
    'near_field',
    'focus_distance_m',
    *(item.name for item in fields(Orientation)),
)
"""These are done where patterns and positions become a scan, and not a second time."""


@takes_settings(
    Section('stream', StreamSettings, 'Stream'),
    REFINEMENT,
    Section('inference', InferenceConfig, 'Inference'),
    READING,
)
def stream_command(
    output: Output,
    source: Annotated[
        list[str],
        typer.Option(
            '--source',
            metavar='ADDRESS',
            help='hdf5:FILE (grows, SWMR), folder:DIR (files appear), zmq:tcp://HOST:PORT (or '
            'zmq+sub:), pva:CHANNEL. Several, where patterns and positions come apart.',
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar='[MODEL]',
            help='A model file, wts.h5.zip. Without one, the model that comes with the package.',
        ),
    ] = None,
    backend: BackendName = None,
    as_json: AsJson = False,
    *,
    given: Given,
) -> None:
    """Reconstruct while the scan runs.

    A trained network predicts each batch of patterns as it comes; the model that comes with the
    package iterates again whenever there is a quarter more of them. product.h5 and
    reconstruction.png in the output folder grow meanwhile. At the end of the scan it is written to
    scan.npz and reconstructed as by ptychopinn reconstruct; summary.json has latencies and losses.
    With --json, a line of JSON is printed at each update.

    \b
    Examples:
      ptychopinn stream --source zmq:tcp://detector:5555 -o live
      ptychopinn stream run/wts.h5.zip --source pva:det:image --source pva:scan:positions
        --probe-from scan1.npz --patterns 4096 -o live
      ptychopinn stream --source hdf5:growing.h5 --product product.h5 --json -o live
    """
    settings = StreamSettings.from_dict(given['stream'])
    values, lines = stream_into(output, source, model, backend, settings, given, as_json=as_json)
    if as_json:
        typer.echo(to_json({'event': 'end', **values}, indent=None))
    else:
        report(values, lines, as_json=False)


def stream_into(
    output: Path,
    addresses: list[str],
    model: Path | None,
    backend: str | None,
    settings: StreamSettings,
    given: Given,
    *,
    as_json: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Receive and reconstruct a scan; return what to report. See `stream_command`."""
    from ptychopinn_plugin import api
    from ptychopinn_plugin.backends.selection import choose, create_backend
    from ptychopinn_plugin.opening import BUILT_IN_KEYWORD
    from ptychopinn_plugin.streaming.live import LiveReconstruction

    _check(settings, given)
    path = Path(BUILT_IN_KEYWORD) if model is None else model
    with staged_outputs(output, _STREAM_FILES) as stage:
        _spare_received_scan(output)
        opened = api.open_model(path, with_training_state=False)
        config = assemble_config(given, base=opened.config.to_dict())
        choice = choose(backend, model_backend=opened.backend)
        runner = create_backend(choice.name)
        runner.model = opened
        rules = _rules_of(output, given)
        # A trained network needs each pattern once; iterations, now and at the end, need them all.
        keeps = settings.final or opened.is_prior
        store = _store_of(settings, given, keeps=keeps)
        files = _LiveFiles(output, as_json=as_json)
        with _receiving(addresses, settings, rules, store) as (reception, stop):
            live = LiveReconstruction(
                *(reception, store, runner, opened, config.inference, config.refinement),
                *(rules, settings, files.write),
            )
            files.follow(reception, live)
            if as_json:
                typer.echo(to_json({'event': 'start', 'sources': addresses}, indent=None))
            else:
                typer.echo(
                    f'Receiving from {", ".join(addresses)}. Ctrl-C ends the scan.', err=True
                )
            live.follow(stop.is_set)
        _check_received(reception, store, settings)
        values: dict[str, Any] = {'output': output, 'files': [*_LIVE_FILES, _SUMMARY_FILE]}
        lines = [f'written to {output}: {", ".join(values["files"])}']
        if settings.final:
            scan = _write_scan(output, reception, store, rules)
            remaining = {
                name: value for name, value in given['reading'].items() if name not in _AT_RECEIPT
            }
            values, lines = reconstruct_staged(
                *(stage, output, path, scan, choice.name),
                {**given, 'reading': remaining},
            )
            values['files'] = list(_STREAM_FILES)
        summary = _summary(reception, live, files, settings)
        write_json(stage / _SUMMARY_FILE, summary)
    return {**values, 'stream': summary}, [*_lines_of(summary), *lines]


def _check(settings: StreamSettings, given: Given) -> None:
    """Refuse settings that do not go together.

    Raises
    ------
    ConfigError
        Naming the first of them.
    """
    for name in _OF_FILES:
        if given['reading'].get(name):
            option = READING.options.get(name, name.replace('_', '-'))
            raise ConfigError(f'--{option} is for scan files; a stream has no use for it.')
    if settings.queue < settings.update_patterns:
        raise ConfigError(
            f'--queue must be at least --update-patterns, {settings.update_patterns}; got '
            f'{settings.queue}.'
        )


def _spare_received_scan(output: Path) -> None:
    """Refuse to replace a scan: what was measured comes only once.

    Raises
    ------
    OutputError
        If there is one.
    """
    for path in (output / _SCAN_FILE, output / 'received' / _RECEIVED_FILE):
        if path.exists():
            raise OutputError(
                f'{path} is a scan, which a stream would replace. Choose another --output, or '
                'move it away.'
            )


def _rules_of(output: Path, given: Given) -> 'ScanRules':
    from ptychopinn_plugin.data import read_probe, read_product
    from ptychopinn_plugin.data.readers import refuse_two_probes
    from ptychopinn_plugin.data.readers.mask_files import read_mask
    from ptychopinn_plugin.data.readers.request import ReadingRequest
    from ptychopinn_plugin.streaming.assembly import ScanRules

    reading = ScanReading.from_dict(given['reading'])
    refuse_two_probes(reading.probe_from, reading.probe_from_patterns)
    request = ReadingRequest(
        name=output.resolve().name,
        probe=None if reading.probe_from is None else read_probe(reading.probe_from),
        geometry=reading_geometry(reading),
        mask=None if reading.mask is None else read_mask(reading.mask),
        beam_center_px=pair_of('--beam-center', reading.beam_center, '512,498'),
    )
    product = None if reading.product is None else read_product(reading.product)
    return ScanRules(
        request,
        product,
        reading.orientation(),
        probe_from_patterns=reading.probe_from_patterns,
    )


def _store_of(settings: StreamSettings, given: Given, *, keeps: bool) -> 'PatternStore':
    from ptychopinn_plugin.streaming.store import PatternStore

    gib = ScanReading.from_dict(given['reading']).max_memory_gib
    return PatternStore(
        keeps=keeps,
        max_queued=settings.queue,
        drops=settings.when_full == 'drop',
        memory_bytes=None if gib is None else int(gib * 2**30),
    )


@contextmanager
def _receiving(
    addresses: list[str], settings: StreamSettings, rules: 'ScanRules', store: 'PatternStore'
) -> Iterator[tuple['Reception', threading.Event]]:
    """Yield what receives from all sources, and what Ctrl-C sets."""
    from ptychopinn_plugin.streaming.matching import PatternMatcher
    from ptychopinn_plugin.streaming.messages import Opening, PositionBatch
    from ptychopinn_plugin.streaming.reception import Patience, Reception
    from ptychopinn_plugin.streaming.sources import open_stream

    matcher = PatternMatcher(settings.wait_seconds, settings.max_waiting)
    expected = settings.patterns
    # Positions that are known before are those of the whole scan: their number is its end.
    if rules.product is not None and len(rules.product.indexes):
        known = rules.product
        matcher.add_positions(PositionBatch(known.indexes, known.positions_m, 'm'))
        expected = matcher.waiting_positions if expected is None else expected
    patience = Patience(settings.start_timeout, settings.idle_timeout)
    stop = threading.Event()
    with (
        stopping_at_signal(stop, _ANNOUNCEMENT),
        Reception(matcher, store, patience, Opening(n_patterns=expected)) as reception,
    ):
        reception.begin([open_stream(each, reception.on_fault) for each in addresses])
        yield reception, stop


def _check_received(
    reception: 'Reception', store: 'PatternStore', settings: StreamSettings
) -> None:
    """Raise DataError where no pattern with its position has come.

    Raises
    ------
    KeyboardInterrupt
        If that is because the user has ended it.
    """
    if store.n_appended:
        return
    if reception.ended == 'interrupted':
        typer.echo('Stopped before any pattern with its position came.', err=True)
        raise KeyboardInterrupt
    counts = reception.counts()
    why = f' The first fault: {reception.first_fault}' if reception.first_fault else ''
    if counts['received']:
        raise DataError(
            f'{count(counts["received"], "pattern")} came and no position for any of them in '
            f'{settings.wait_seconds:g} s (--wait-seconds). Do their indexes agree?{why}'
        )
    raise DataError(
        f'Patterns were expected from the source; none came ({reception.ended}). Is its address '
        f'right, and does the sender run?{why}'
    )


def _write_scan(
    output: Path, reception: 'Reception', store: 'PatternStore', rules: 'ScanRules'
) -> Path:
    """Write what was received as a scan file, and let go of it in memory.

    Raises
    ------
    DataError
        If it makes no scan; it is kept all the same, as what was measured comes only once.
    """
    from ptychopinn_plugin.data import write_scan
    from ptychopinn_plugin.streaming.assembly import assemble, write_received

    unit = reception.matcher.unit
    assert unit is not None
    batch = store.read(0, store.n_appended)
    # The scan is read again from its file: what the store holds would be in memory twice.
    store.clear()
    path = output / _SCAN_FILE
    try:
        write_scan(path, assemble(batch, unit, reception.opening, rules))
    except DataError as error:
        kept = output / 'received' / _RECEIVED_FILE
        kept.parent.mkdir(exist_ok=True)
        write_received(kept, batch, unit, reception.opening)
        raise DataError(
            f'{error} What was received is kept in {kept}; with other options it is taken again: '
            f'--source folder:{kept.parent}.'
        ) from error
    return path


@dataclass
class _LiveFiles:
    """Writes the growing object, and reports it."""

    folder: Path
    as_json: bool
    writes: int = 0
    reception: 'Reception | None' = None
    live: 'LiveReconstruction | None' = None

    def __post_init__(self) -> None:
        # What draws takes seconds to import, for which no pattern is to wait.
        importlib.import_module('ptychopinn_plugin.plots')
        self.began_s = time.monotonic()

    def follow(self, reception: 'Reception', live: 'LiveReconstruction') -> None:
        """Report the figures of these with each object."""
        self.reception, self.live = reception, live

    def write(self, result: 'Reconstruction') -> None:
        """Write product.h5 and the picture, each in one go."""
        from ptychopinn_plugin.data import write_product
        from ptychopinn_plugin.plots import plot_reconstruction

        if not self.writes:
            # Those of a former scan would not belong to the new object.
            for name in {*RECONSTRUCTION_FILES, _SUMMARY_FILE} - set(_LIVE_FILES):
                with suppress(FileNotFoundError):
                    (self.folder / name).unlink()
        write_product(self.folder / 'product.h5', result)
        plot_reconstruction(result, self.folder / 'reconstruction.png')
        self.writes += 1
        self._report(result)

    def _report(self, result: 'Reconstruction') -> None:
        assert self.reception is not None
        assert self.live is not None
        counts = self.reception.counts()
        height, width = result.object_.shape
        elapsed_s = time.monotonic() - self.began_s
        latency = self.live.to_object.to_dict()
        if self.as_json:
            event = {
                'event': 'update',
                'elapsed_s': elapsed_s,
                'patterns': len(result.positions_px),
                'object_shape_px': [height, width],
                'latency': latency,
                'counts': counts,
            }
            typer.echo(to_json(event, indent=None))
            return
        typer.echo(
            f'{elapsed_s:.1f} s: {count(len(result.positions_px), "pattern")} of '
            f'{counts["received"]:,} received, object {height} x {width} px, latency '
            f'{latency["p50_s"]:.2f} s (median)',
            err=True,
        )


def _summary(
    reception: 'Reception',
    live: 'LiveReconstruction',
    files: _LiveFiles,
    settings: StreamSettings,
) -> dict[str, Any]:
    return {
        'ended': reception.ended,
        'final': settings.final,
        'seconds': time.monotonic() - files.began_s,
        'patterns': reception.counts(),
        'shown': live.growing.n_patterns,
        'not_shown': live.failed,
        'updates': live.n_updates,
        'written': files.writes,
        'latency_to_object': live.to_object.to_dict(),
        'latency_to_file': live.to_file.to_dict(),
        'unit': reception.matcher.unit,
        'first_fault': reception.first_fault,
    }


_ENDS = {
    'complete': 'the scan was complete',
    'closed': 'the source was closed',
    'idle': 'nothing more came',
    'no-start': 'nothing came',
    'interrupted': 'it was interrupted',
    'no-space': 'no more patterns could be kept',
}


def _lines_of(summary: dict[str, Any]) -> list[str]:
    counts, latency = summary['patterns'], summary['latency_to_object']
    expected = counts['expected']
    of = '' if expected is None else f' of {expected:,}'
    left_out = {
        'without a position in time': counts['without_position'],
        'beyond --max-waiting': counts['over_window'],
        'dropped at a full queue': counts['queue_full'],
        'repeated': counts['repeated'],
    }
    parts = [f'{number:,} {why}' for why, number in left_out.items() if number]
    if counts['unreadable']:
        parts.append(count(counts['unreadable'], 'message') + ' unreadable')
    lines = [
        f'Received {counts["received"]:,}{of} patterns, {counts["lost"]:,} lost'
        + (f'; {", ".join(parts)}' if parts else '')
        + f'; {_ENDS[summary["ended"]]}'
    ]
    if latency['p50_s'] is not None:
        lines.append(
            f'from arrival to the object: {latency["p50_s"]:.3g} s (50 %), '
            f'{latency["p90_s"]:.3g} s (90 %), {latency["p99_s"]:.3g} s (99 %); '
            f'{count(summary["written"], "update")} written'
        )
    return lines
