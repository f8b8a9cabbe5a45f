"""PtychoPINN as Ptychodus' algorithms: its contract on this side, the worker on the other."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptychodus.api.reconstruct import (
    ReconstructInput,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)

from ptychopinn_plugin.backends.selection import Choice, choose
from ptychopinn_plugin.data import Scan, write_scan
from ptychopinn_plugin.data.grouping import check_before_run
from ptychopinn_plugin.data.single_shots import alone_where_apart
from ptychopinn_plugin.errors import PtychoPinnError
from ptychopinn_plugin.host.loaded_model import (
    MODEL_EXTENSION,
    MODEL_NAME,
    LoadedModel,
    name_of_model,
)
from ptychopinn_plugin.host.log_messages import (
    StageLog,
    described,
    log_notes,
    reported,
)
from ptychopinn_plugin.host.previews import InferenceWatch, has_window, log_stopped
from ptychopinn_plugin.host.resampling import Resampling
from ptychopinn_plugin.host.run_state import Activity
from ptychopinn_plugin.host.scan_check import check_product
from ptychopinn_plugin.host.settings import PluginSettings
from ptychopinn_plugin.host.training_data import (
    check_training_files,
    check_training_scans,
    find_training_files,
)
from ptychopinn_plugin.host.training_watch import TRAINING_GOAL, TrainingWatch, which_model_stays
from ptychopinn_plugin.host.translation import as_chosen, to_scan
from ptychopinn_plugin.host.wording import BUILT_IN_NAME
from ptychopinn_plugin.host.worker.arrays import ResultArrays, ScanArrays
from ptychopinn_plugin.host.worker.client import Event, Run, Worker, wait_for_end
from ptychopinn_plugin.host.worker.messages import (
    Job,
    ReconstructionDone,
    ReconstructJob,
    RunProgress,
    TrainJob,
)
from ptychopinn_plugin.model_file import Model
from ptychopinn_plugin.text import count


@dataclass(frozen=True)
class ModelChoice:
    """A model that can be loaded again with one click.

    Attributes
    ----------
    name : str
    tool_tip : str
        The whole path of its file; empty for the built-in model.
    is_loaded : bool
    load : callable
        Raises a PtychoPinnError or an OSError where that fails.
    """

    name: str
    tool_tip: str
    is_loaded: bool
    load: Callable[[], None]


PRODUCT_GOES = 'The product that was made for it is taken away again.'
"""In the window this follows the reason of a failed inference."""

GRACE_S = 20.0
"""A run that is stopped must hand over what it has within this number of seconds."""

RESULT_S = 5.0
"""An inference that is stopped after a picture has this number of seconds for the iteration under
way and its result, which has what the picture lacks: probe, positions, and how well it fits."""

BRIEF_S = 1.0
"""A run with nothing to hand over has this number of seconds; then its worker is ended."""

logger = logging.getLogger('ptychopinn_plugin')


class PinnReconstructor(TrainableReconstructor):
    """One algorithm: train a network, open a model, infer with it.

    Parameters
    ----------
    name : str
        As in the menu.
    model_type : str
        'pinn' or 'supervised'.
    settings : PluginSettings
    worker : Worker
    activity : Activity
        What the panel shows; its `is_ending` is true when the application closes.

    Attributes
    ----------
    model_type : str
    loaded : LoadedModel
    """

    def __init__(
        self,
        name: str,
        model_type: str,
        settings: PluginSettings,
        worker: Worker,
        activity: Activity,
    ) -> None:
        super().__init__()
        self._name = name
        self.model_type = model_type
        self._settings = settings
        self._worker = worker
        self._activity = activity
        self.loaded = LoadedModel()
        # Ptychodus hides Stop and the progress bar while the goal is 0.
        self._goal = 1

    @property
    def name(self) -> str:
        """The part of the name in the menu that follows the library's."""
        return self._name

    def get_progress_goal(self) -> int:
        """Return the number of steps of the run under way."""
        return self._goal

    def is_model_loaded(self) -> bool:
        """Return whether there is a model for Infer, as there always is."""
        return True

    @property
    def model_backend(self) -> str:
        """The backend that made the loaded model, or 'auto'."""
        return self.loaded.model.backend

    def get_model_file_filter(self) -> str:
        """Return the filter of the file dialog."""
        return f'PtychoPINN Models (*{MODEL_EXTENSION} *.ckpt)'

    def get_model_file_extension(self) -> str:
        """Return the suffix of a model file."""
        return MODEL_EXTENSION

    def get_training_data_file_filter(self) -> str:
        """Return the filter of the file dialog."""
        return 'NumPy Zipped Archive (*.npz)'

    def load_model_from_file(self, file_path: Path) -> None:
        """Open a model file.

        Raises
        ------
        ArchiveError
            If it is no model file, damaged, or of a newer format.
        """
        with reported('Load Model'):
            model = self.loaded.load(Path(file_path))
        if not self._activity.is_running and self._activity.curve_of == self._name:
            self._activity.forget_curve()
        trained = f'trained with {model.backend}'
        logger.info('Loaded %s, %s.', file_path, model.provenance.get('imported_from', trained))

    def use_built_in_model(self) -> None:
        """Go back to the model that comes with the package."""
        self.loaded.use_built_in()
        if not self._activity.is_running and self._activity.curve_of == self._name:
            self._activity.forget_curve()
        logger.info('Infer uses the built-in model.')

    def recent_models_as_saved(self) -> str:
        """Return the text that changes with the models that were loaded lately."""
        return self._settings.recent_models.as_saved

    def model_choices(self) -> list[ModelChoice]:
        """Return the built-in model and those that were loaded or trained lately, newest first."""
        built_in = ModelChoice(
            *(BUILT_IN_NAME.capitalize(), '', self.loaded.is_built_in, self.use_built_in_model)
        )
        return [
            built_in,
            *(
                ModelChoice(
                    *(name_of_model(path), str(path), self.loaded.is_of(path)),
                    partial(self.load_model_from_file, path),
                )
                for path in self._settings.recent_models.paths()
            ),
        ]

    def save_model(self, file_path: Path) -> None:
        """Write the loaded model to another file."""
        with reported('Save Model'):
            keeps = self._settings.options.keep_training_state
            self.loaded.save(Path(file_path), keep_training_state=keeps)

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """Write patterns, positions, probe and object as an NPZ scan."""
        with reported('Export Training Data'):
            path = Path(file_path)
            path = path if path.suffix == '.npz' else path.with_name(f'{path.name}.npz')
            scan = self._scan_of(parameters)
            log_notes(scan)
            write_scan(path, scan)
        logger.info('Wrote %s to %s.', count(len(scan), 'pattern'), path)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Train on the data of a folder and leave the model in another one.

        Parameters
        ----------
        input_path : Path
            See `training_data.find_training_files`.
        output_path : Path
            Folder that gets `MODEL_NAME`.

        Yields
        ------
        TrainOutput
            Twice a second or more often: the host can stop a run only after an output.
        """
        self._goal = TRAINING_GOAL
        activity = self._activity
        with (
            reported('Training', lambda: which_model_stays(self.loaded)),
            activity.running('training', self._name),
        ):
            job = self._training_job(Path(input_path), Path(output_path))
            training = job.config.training
            minutes = training.max_minutes
            activity.plan(training.epochs, None if minutes is None else 60 * minutes)
            with self._start(job) as run:
                watch = TrainingWatch(activity, self.loaded, job.output)
                yield from self._watch_training(run, watch)

    def _training_job(self, source: Path, target: Path) -> TrainJob:
        files = find_training_files(source)
        options = self._settings.options
        config = self._settings.config(self.model_type)
        model, base = self._base_model(source if source.is_dir() else source.parent)
        choice = self._training_backend(model)
        what = check_training_files(files, config, model, single_shot=options.single_shot)
        logger.info('Training on %s; with %s.', what, described(choice))
        return TrainJob(
            choice.name,
            files.scans,
            config,
            target / MODEL_NAME,
            validation=files.validation,
            photons=options.photons,
            probe_from_patterns=options.probe_from_patterns,
            base_model=base,
            keep_training_state=options.keep_training_state,
            threads=options.threads,
            single_shot=options.single_shot,
            has_pictures=has_window(),
        )

    def _base_model(self, folder: Path) -> tuple[Model | None, Path | None]:
        """Return the model that is fine-tuned and its file, where one is."""
        if not self._settings.options.fine_tune:
            return None, None
        beside = folder / MODEL_NAME
        if self.loaded.is_built_in and beside.is_file():
            # Batch mode loads no model to train.
            self.load_model_from_file(beside)
        model, path = self.loaded.current('Fine-tune')
        # Before the worker starts, which takes seconds.
        model.check_can_be_fine_tuned(
            'Open a file with Load Model... in the menu beside Train, or untick Fine-tune.'
        )
        return model, path

    def _training_backend(self, base: Model | None) -> Choice:
        made_by = None if base is None else base.backend
        return choose(setting=self._settings.backend, model_backend=made_by)

    def check_training_input(self, parameters: ReconstructInput, folder: Path) -> None:
        """Check whether a product can be trained on, before it is written to a folder.

        Parameters
        ----------
        parameters : ReconstructInput
        folder : Path
            Where it is to be trained on; it need not be there.

        Raises
        ------
        PtychoPinnError
            What the training would end with.
        """
        with reported('Train on product'):
            options = self._settings.options
            scan = as_chosen(self._scan_of(parameters), self._settings.options)
            base, _ = self._base_model(folder)
            self._training_backend(base)
            config = self._settings.config(self.model_type)
            check_training_scans([scan], config, base, single_shot=options.single_shot)

    def _start(self, job: Job, arrays: ScanArrays | None = None) -> Run:
        self._worker.idle_s = 60 * self._settings.options.idle_minutes
        return self._worker.run(job, arrays)

    def _watch_training(self, run: Run, watch: TrainingWatch) -> Iterator[TrainOutput]:
        events = run.events()
        try:
            for event in events:
                if watch.note(event):
                    return
                if self._activity.is_ending:
                    break
                yield watch.output()
        except GeneratorExit:
            # This is Stop, in a host that does not make it known.
            pass
        except PtychoPinnError as error:
            watch.note_failure(error)
            raise
        patience_s = GRACE_S if self._activity.epochs else BRIEF_S
        last = wait_for_end(run, events, patience_s, watch.note)
        watch.finish_stopped(last, run.end_error)

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Infer the object with the loaded model, and refine it.

        Parameters
        ----------
        parameters : ReconstructInput

        Yields
        ------
        ReconstructOutput
            The first picture as soon as there is one, then one every two seconds, and the last.
        """
        with (
            reported('Infer', self._which_product_goes),
            self._activity.running('inference', self._name),
        ):
            model, path = self.loaded.current('Infer')
            given = self._scan_of(parameters)
            resampling = self._resampling(given, model)
            scan = resampling.fitted
            # Before the worker starts, which takes seconds.
            check_before_run(scan, model.config.model.gridsize)
            job = self._inference_job(model, path, scan)
            with self._start(job, ScanArrays.of(scan)) as run:
                watch = InferenceWatch(
                    *(parameters.product, given, resampling),
                    0 if model.is_prior else model.network.passes,
                    iterations=None if model.is_prior else job.refinement.iterations,
                    n_measured=self._activity.measured,
                )
                self._goal = watch.goal
                yield from self._watch_inference(run, watch)

    def check(self, parameters: ReconstructInput) -> Iterator[int]:
        """Find out whether patterns and positions go together; see `scan_check`.

        Parameters
        ----------
        parameters : ReconstructInput

        Yields
        ------
        int
            The number of trial reconstructions so far.
        """
        with reported('Check scan'), self._activity.running('check', self._name):
            yield from check_product(parameters, self._settings, self._start, self._activity)

    def prepare(self) -> None:
        """Start the worker for the first run, which an inference with the loaded model may be."""
        try:
            model, path = self.loaded.current('Infer')
            choice = choose(setting=self._settings.backend, model_backend=model.backend)
        except (PtychoPinnError, OSError):
            # The run reports it.
            return
        self._worker.idle_s = 60 * self._settings.options.idle_minutes
        self._worker.prepare(choice.name, path)

    def _which_product_goes(self) -> str:
        return PRODUCT_GOES if self._activity.takes_products_away else ''

    def _resampling(self, scan: Scan, model: Model) -> Resampling:
        """Return the scan as it is to be read and as the model takes it."""
        scan = alone_where_apart(as_chosen(scan, self._settings.options))
        fitted = model.fitted(scan)
        log_notes(fitted)
        if scan.pattern_shape != fitted.pattern_shape:
            logger.info('The product keeps the pixels of the scan: the object is resampled back.')
        return Resampling(scan, fitted)

    def _scan_of(self, parameters: ReconstructInput) -> Scan:
        return to_scan(parameters, probe_from_patterns=self._settings.options.probe_from_patterns)

    def _inference_job(self, model: Model, path: Path, scan: Scan) -> ReconstructJob:
        config = self._settings.config(self.model_type)
        choice = choose(setting=self._settings.backend, model_backend=model.backend)
        logger.info(
            'Inferring from %s with %s. Model: %s.',
            *(count(len(scan), 'pattern'), described(choice), self.loaded.name),
        )
        return ReconstructJob(
            *(choice.name, path, config.inference, config.refinement, scan.geometry, scan.name),
            threads=self._settings.options.threads,
            single_shot=scan.is_single_shot,
            probe_origin=scan.probe_origin,
        )

    def _watch_inference(self, run: Run, watch: InferenceWatch) -> Iterator[ReconstructOutput]:
        activity, events, stages = self._activity, run.events(), StageLog(self._activity)
        done = None
        try:
            for event in events:
                if event is not None and event.is_last:
                    done = event
                    break
                has_news = event is not None and self._note_inference(event, watch)
                if not has_window():
                    stages.note()
                if activity.is_ending:
                    break
                if watch.is_due(has_news=has_news, is_stop_known=activity.is_stop_known):
                    yield self._output(watch)
                    watch.note_handed_over(activity.when_drawn)
        except GeneratorExit:
            # Stop, in a host that does not make it known: the worker may stay for the next run.
            activity.keeps_product = watch.has_picture
            wait_for_end(run, events, BRIEF_S)
            log_stopped(run, has_picture=watch.has_picture)
            raise
        if done is None:
            activity.outcome = 'stopped'
            patience_s = RESULT_S if watch.has_picture else BRIEF_S
            done = wait_for_end(
                run, events, patience_s, lambda event: self._note_inference(event, watch)
            )
        activity.keeps_product = done is not None or watch.has_picture
        if done is not None:
            assert isinstance(done.report, ReconstructionDone)
            assert isinstance(done.arrays, ResultArrays)
            is_stopped = activity.outcome == 'stopped'
            watch.finish(done, is_stopped=is_stopped)
            is_refined = len(done.report.likelihoods) > 1
            activity.show('refine' if is_refined else 'predict', done.arrays.object_)
        else:
            log_stopped(run, has_picture=watch.has_picture)
            if not watch.has_picture:
                return
        # Stop has nothing to end any more.
        activity.outcome = activity.outcome or 'done'
        yield self._output(watch)

    def _output(self, watch: InferenceWatch) -> ReconstructOutput:
        """Return what the host is to draw, and note that it gets it."""
        output = watch.output()
        self._activity.outputs = (*self._activity.outputs, output.progress)
        return output

    def _note_inference(self, event: Event, watch: InferenceWatch) -> bool:
        """Take in progress; return whether it brought a picture."""
        progress = event.report
        assert isinstance(progress, RunProgress)
        self._activity.note(progress)
        if event.picture is not None:
            self._activity.show(progress.stage, event.picture.object_)
        has_picture = watch.update(event)
        self._goal = watch.goal
        return has_picture
