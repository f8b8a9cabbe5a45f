"""*Check scan*: whether patterns and positions of a product go together, as a run of the window."""

import logging
from collections.abc import Callable, Iterator

from ptychodus.api.reconstruct import ReconstructInput

from ptychopinn_plugin.backends.selection import choose
from ptychopinn_plugin.checking.trials import cut_piece
from ptychopinn_plugin.data import Scan, scale_to_photons
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host.finding import Flips, finding_in_words
from ptychopinn_plugin.host.log_messages import described, log_notes
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.settings import PluginSettings
from ptychopinn_plugin.host.translation import to_scan
from ptychopinn_plugin.host.worker.arrays import CheckPictures, ScanArrays
from ptychopinn_plugin.host.worker.client import Run, wait_for_end
from ptychopinn_plugin.host.worker.messages import CheckDone, CheckJob, Job, RunProgress

CHECK_BRIEF_S = 2.0
"""A check that is stopped has this number of seconds; then its worker is ended."""

Start = Callable[[Job, ScanArrays], Run]

logger = logging.getLogger('ptychopinn_plugin')


def check_product(
    parameters: ReconstructInput, settings: PluginSettings, start: Start, activity: Activity
) -> Iterator[int]:
    """Make trial reconstructions, and log what they show.

    Parameters
    ----------
    parameters : ReconstructInput
    settings : PluginSettings
    start : callable
        Starts a run of the worker.
    activity : Activity
        Gets the pictures.

    Yields
    ------
    int
        The number of trials so far, twice a second or more often.

    Raises
    ------
    DataError
        If the scan has too few positions for it.
    """
    scan = to_scan(parameters, probe_from_patterns=settings.options.probe_from_patterns)
    if settings.options.single_shot:
        raise DataError(
            'A check needs patterns that overlap, and "Single shot" is ticked, with which they '
            'share nothing. Untick it.'
        )
    if (photons := settings.options.photons) is not None:
        scan = scale_to_photons(scan, photons)
    log_notes(scan)
    # Before the worker starts, which takes seconds.
    cut_piece(scan)
    with start(_job(scan, settings), ScanArrays.of(scan)) as run:
        done = None
        events = run.events()
        for event in events:
            if event is not None and event.is_last:
                done = event
                break
            if event is not None and isinstance(event.report, RunProgress):
                activity.note(event.report)
                if event.picture is not None:
                    activity.show('check', event.picture.object_)
            if activity.is_ending:
                activity.outcome = 'stopped'
                done = wait_for_end(run, events, CHECK_BRIEF_S)
                break
            yield activity.progress[1]
    if done is None or not isinstance(done.report, CheckDone) or not done.report.verdict:
        activity.outcome = 'stopped'
        reason = f'The check was stopped, and has found nothing. {run.end_error}'
        logger.warning('%s', reason.rstrip())
        return
    activity.outcome = ''
    # Pictures of single trials give way to those of the result.
    activity.drop_pictures()
    if isinstance(done.arrays, CheckPictures):
        for stage, picture in vars(done.arrays).items():
            if picture is not None:
                activity.show(stage, picture)
    level = logging.INFO if done.report.verdict == 'right' else logging.WARNING
    logger.log(level, '%s', finding_in_words(scan.name, done.report, _flips(settings)))


def _job(scan: Scan, settings: PluginSettings) -> CheckJob:
    choice = choose(setting=settings.backend)
    logger.info(
        'Checking %s with %s, by trial reconstructions of a part of it.',
        *(scan.name, described(choice)),
    )
    device = settings.config('pinn').inference.device
    threads = settings.options.threads
    return CheckJob(choice.name, device, scan.name, threads=threads, probe_origin=scan.probe_origin)


def _flips(settings: PluginSettings) -> Flips:
    """Return how the host turns patterns that it loads now."""
    return Flips(*(settings.of_host('Diffraction', key) for key in Flips.KEYS))
