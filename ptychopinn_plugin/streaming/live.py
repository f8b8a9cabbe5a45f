"""The object while the scan runs: parts are reconstructed as they come, and files show them."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ptychopinn_plugin.array_types import FloatArray
from ptychopinn_plugin.backends.protocol import Previews, Progress
from ptychopinn_plugin.config import InferenceConfig, RefinementConfig
from ptychopinn_plugin.data import Reconstruction
from ptychopinn_plugin.data.grouping import check_positions
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.streaming.assembly import PartMaker, ScanRules
from ptychopinn_plugin.streaming.canvas import GrowingObject
from ptychopinn_plugin.streaming.latency import LatencyHistogram
from ptychopinn_plugin.streaming.matching import MatchedBatch
from ptychopinn_plugin.streaming.reception import Reception
from ptychopinn_plugin.streaming.settings import StreamSettings
from ptychopinn_plugin.streaming.store import PatternStore

logger = logging.getLogger('ptychopinn_plugin')

_POLL_S = 0.2
"""Whether the scan is over is checked once in this number of seconds."""

MAX_PREVIEW_S = 5.0
"""An update by iterations takes this time at most."""

MAX_PREVIEW_PATTERNS = 4096
"""An update by iterations takes the newest patterns, up to this number."""

PREVIEW_GROWTH = 1.25
"""Iterations are run again when there are this many times more patterns than before: all updates
together take five times what the last one takes, however long the scan is."""

MIN_PREVIEW_PATTERNS = 16
"""Fewer patterns overlap too little for iterations."""

WRITING_FRACTION = 0.2
"""Writing files takes at most this part of the time."""

OnWrite = Callable[[Reconstruction], None]


class LiveReconstruction:
    """Follows a scan until it is over.

    With a trained network, each batch of patterns is predicted once, as it comes, and stitched to
    the growing object. The built-in model corrects objects and not patterns: with it all patterns
    so far are iterated again, whenever their number has grown by a quarter.

    Parameters
    ----------
    reception : Reception
    store : PatternStore
    runner : Backend
        Holds the model.
    model : Model
    inference : InferenceConfig
    refinement : RefinementConfig
    rules : ScanRules
    settings : StreamSettings
    write : callable
        Writes the object to the output folder.

    Attributes
    ----------
    growing : GrowingObject
    to_object, to_file : LatencyHistogram
        From the arrival of a pattern until it is in the object, and until that is written.
    failed : int
        Patterns of parts that could not be reconstructed.
    """

    def __init__(
        self,
        reception: Reception,
        store: PatternStore,
        runner: Any,
        model: Model,
        inference: InferenceConfig,
        refinement: RefinementConfig,
        rules: ScanRules,
        settings: StreamSettings,
        write: OnWrite,
    ) -> None:
        self._reception, self._store, self._runner = reception, store, runner
        self._model, self._inference = model, inference
        self._refinement = RefinementConfig(iterations=0)
        if model.is_prior:
            limit_s = min(MAX_PREVIEW_S, refinement.max_seconds or MAX_PREVIEW_S)
            self._refinement = refinement.replace(max_seconds=limit_s, positions=False)
        self._parts = PartMaker(lambda: reception.opening, rules)
        self._settings, self._write = settings, write
        self._is_interrupted: Callable[[], bool] = lambda: False
        self.growing = GrowingObject()
        self.to_object, self.to_file = LatencyHistogram(), LatencyHistogram()
        self.failed = self.n_updates = 0
        self._n_shown = 0
        self._written_s = float('-inf')
        self._pause_s = settings.update_seconds
        self._unwritten: list[FloatArray] = []
        self._shows = isinstance(runner, Previews)
        if not self._shows:
            logger.warning(
                'The backend %s has no previews: no object is shown while the scan runs.',
                getattr(runner, 'name', 'chosen'),
            )

    def follow(self, is_interrupted: Callable[[], bool]) -> None:
        """Receive and show, until the scan is over or was interrupted.

        Raises
        ------
        PtychoPinnError
            If a source has failed.
        """
        self._is_interrupted = is_interrupted
        step = self._iterate if self._model.is_prior else self._infer
        while not self._is_over():
            step(_POLL_S)
            self._write_now_and_then()
        if self._settings.final:
            return
        # What was shown is the result: nothing that has come is missing in it.
        while step(0.0):
            self._write_now_and_then()
        self._write_object()

    def _is_over(self) -> bool:
        if self._is_interrupted():
            self._reception.stop()
        return self._reception.is_over()

    def _infer(self, timeout_s: float) -> bool:
        """Infer the object under the next patterns; return whether there were any."""
        group_size = self._model.network.group_size
        size = max(self._settings.update_patterns, group_size)
        batch = self._store.take(size, timeout_s, at_least=group_size)
        if batch is None:
            return False
        self._add(batch, batch.received_s)
        return True

    def _iterate(self, timeout_s: float) -> bool:
        """Iterate over the patterns so far, where enough new ones have come."""
        wanted = max(MIN_PREVIEW_PATTERNS, int(np.ceil(self._n_shown * PREVIEW_GROWTH)))
        is_ready = self._store.wait_for_more(wanted, timeout_s)
        count = self._store.n_appended
        is_last = self._store.is_closed and not self._settings.final
        if not is_ready or count == self._n_shown or not (count >= wanted or is_last):
            return False
        start = max(0, count - MAX_PREVIEW_PATTERNS)
        batch = self._store.read(start, count - start)
        new = batch.received_s[max(0, self._n_shown - start) :]
        if start == 0:
            # The next object takes the place of the one before, and is not added to it.
            self.growing = GrowingObject()
        self._n_shown = count
        self._add(batch, new)
        return True

    def _add(self, batch: MatchedBatch, received_s: FloatArray) -> None:
        unit = self._reception.matcher.unit
        if not self._shows or unit is None:
            return
        try:
            part = self._model.fitted(self._parts.make(batch, unit))
            check_positions(part)
            # A probe that nobody gave is looked for by trials at the end, and not for each picture.
            refinement = self._refinement
            if part.probe_origin != 'given':
                refinement = refinement.replace(probe=self._model.is_prior)
                part = replace(part, probe_origin='given')
            result = self._runner.preview(
                part, self._inference, refinement, observer=self._is_to_stop
            )
            self.growing.add(result)
        except DataError as error:
            # Whether the scan can be reconstructed is decided at its end.
            if not self.failed:
                logger.warning('A part of the scan is not shown: %s', error)
            self.failed += len(received_s)
            return
        self.n_updates += 1
        self._unwritten.append(received_s)
        self.to_object.add(time.monotonic() - received_s)

    def _is_to_stop(self, progress: Progress) -> bool:
        # Where the whole scan is reconstructed next, nobody waits for this part.
        return self._settings.final and self._is_over()

    def _write_now_and_then(self) -> None:
        if self._unwritten and time.monotonic() - self._written_s >= self._pause_s:
            self._write_object()

    def _write_object(self) -> None:
        found = self.growing.reconstruction()
        if found is None or not self._unwritten:
            return
        began_s = time.monotonic()
        self._write(found)
        self._written_s = time.monotonic()
        took_s = self._written_s - began_s
        self._pause_s = max(self._settings.update_seconds, took_s / WRITING_FRACTION - took_s)
        self.to_file.add(self._written_s - np.concatenate(self._unwritten))
        self._unwritten.clear()
