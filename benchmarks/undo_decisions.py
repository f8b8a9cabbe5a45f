"""Undo each decision (docs/decisions) by a few words of code, and see a test fail.

    python benchmarks/undo_decisions.py
    python benchmarks/undo_decisions.py 5 17

It works on a copy of the repository in a temporary folder. A test must pass there as the code is,
and fail once it is changed; else this program ends with 1. A decision whose test is skipped here,
as without a second framework, is listed as such. `tests/project/test_decision_list.py` finds
changes that no longer fit the code.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

LEFT_BEHIND = shutil.ignore_patterns(
    '.git', '.venv*', '.tox', '.*_cache', '__pycache__', '_build', '*.egg-info', 'demo-output'
)


@dataclass(frozen=True)
class Undoing:
    """A change that undoes a decision.

    Attributes
    ----------
    decision : int
    path : str
        A file of the package.
    old, new : str
        The first is in the file once.
    test : str
        A test that must notice, below `tests`.
    """

    decision: int
    path: str
    old: str
    new: str
    test: str


UNDOINGS = (
    Undoing(
        1,
        'physics/forward.py',
        'return whole, positions_px - whole',
        'return whole, 0 * positions_px',
        'contract/test_decisions.py::test_1_the_object_is_cut_at_whole_pixels_and_the_probe_takes_the_rest',
    ),
    Undoing(
        2,
        'backends/common/sampling.py',
        'exposure = EXPOSURES[rng.integers(len(EXPOSURES))]',
        'exposure = 1.0',
        'unit/backends/test_augmentation.py::test_short_exposures_are_drawn',
    ),
    Undoing(
        3,
        'backends/common/best_iteration.py',
        'losses.append(loss)\n        else:\n',
        'losses.append(loss)\n        else:\n            best = found\n',
        'unit/backends/test_refinement.py::test_a_step_of_all_that_is_as_good_leaves_the_best',
    ),
    Undoing(
        4,
        'backends/common/prediction.py',
        "return reference if rule == 'model' or (rule == 'auto' and same) else own",
        'return own',
        'contract/test_decisions.py::test_4_one_choice_of_photons',
    ),
    Undoing(
        5,
        'backends/common/refinement.py',
        'return done % PHASE_DRIFT_INTERVAL == 0',
        'return False',
        'contract/test_decisions.py::test_5_every_fifth_iteration_corrects_the_slow_phase',
    ),
    Undoing(
        6,
        'host/worker/client.py',
        'if process is not None and process.is_alive() and process.serves(backend):',
        'if process is not None and process.is_alive() and backend is None:',
        'host/test_worker.py::test_the_second_inference_starts_at_once',
    ),
    Undoing(
        7,
        'host/bridge.py',
        'made[entry.name] = library\n',
        'pass\n',
        'host/test_bridge.py::test_the_stock_host_has_our_algorithms_once',
    ),
    Undoing(
        8,
        'physics/projection.py',
        'RATIO_EPSILON = 2e-4',
        'RATIO_EPSILON = 1e-12',
        'parity/test_physics.py::test_the_phase_of_rounding_errors_has_no_say',
    ),
    Undoing(
        9,
        'backends/tensorflow/framework.py',
        'return (None,) * len(sides) if len(sides) < 3 else (None, *sides[1:])',
        'return sides',
        'contract/test_decisions.py::test_9_a_graph_serves_for_any_number_of_patterns_and_weights_are_plain_tensors',
    ),
    Undoing(
        10,
        'backends/common/training_loop.py',
        'share = min(decay, (1 + epoch) / (10 + epoch))',
        'share = 0.0',
        'contract/test_training.py::test_the_model_is_an_average_over_epochs',
    ),
    Undoing(
        11,
        'backends/common/sampling.py',
        'yield Batch(subscan, count % passes, groups, int(rng.integers(4)))',
        'yield Batch(subscan, count % passes, groups, 0)',
        'unit/backends/test_sampling.py::test_a_sub_scan_is_met_in_all_passes_and_rotations',
    ),
    Undoing(
        12,
        'backends/common/sampling.py',
        'SUBSCAN_SIZE = 256',
        'SUBSCAN_SIZE = LARGEST_LESSON = 256',
        'project/test_names.py::test_names_that_were_given_up_are_gone',
    ),
    Undoing(
        13,
        'backends/common/reconstruction_run.py',
        'self._iterate(settings, schedule)\n            if self.stopped:\n',
        'if self.stopped:\n',
        'parity/test_prior.py::test_a_pass_follows_each_block_of_iterations',
    ),
    Undoing(
        14,
        'storage/lock.py',
        'if not owner.process.is_gone():',
        'if False:',
        'unit/storage/test_lock.py::test_a_second_run_is_refused_in_one_line',
    ),
    Undoing(
        15,
        'cli/provenance.py',
        'digest.update(piece)',
        'pass',
        'unit/cli/test_reproduce.py::test_every_file_tells_its_model_inputs_and_settings',
    ),
    Undoing(
        16,
        'checking/trials.py',
        'numbers = _one_of_each_place(scan.positions_px, step)',
        'numbers = np.arange(len(scan))',
        'unit/checking/test_search.py::test_no_exposure_of_a_held_out_place_is_fitted',
    ),
    Undoing(
        17,
        'backends/common/threads.py',
        'if seconds <= GAIN * best_s:',
        'if True:',
        'unit/backends/test_threads.py::test_the_most_threads_that_do_not_wait',
    ),
    Undoing(
        18,
        'backends/common/probe_search.py',
        'return (not self.overlaps, self.loss)',
        'return (False, self.loss)',
        'unit/backends/test_probe_search.py::test_a_probe_that_hardly_overlaps_is_not_taken',
    ),
    Undoing(
        19,
        'backends/common/iteration_plan.py',
        'planned = MORE_ITERATIONS if overlap < LITTLE_OVERLAP else USUAL_ITERATIONS',
        'planned = USUAL_ITERATIONS',
        'unit/backends/test_iteration_plan.py::test_more_iterations_where_illuminations_overlap_little',
    ),
    Undoing(
        20,
        'physics/uncertainty.py',
        '_left_open(_level(phase, lit), PHASE_NOISE * noise / local**2)',
        'PHASE_NOISE * noise / local**2',
        'unit/physics/test_uncertainty.py::test_it_is_the_error_of_the_best_filter',
    ),
    Undoing(
        21,
        'backends/common/refinement.py',
        'if self._forward.is_single_shot and not self._request.refine_probe:',
        'if False:',
        'parity/test_iterations.py::test_only_patterns_that_share_nothing_move_at_once',
    ),
    Undoing(
        23,
        'backends/common/phase_drift.py',
        'phase = self.phase if self.is_sure_of_drift else self.phase_alone',
        'phase = self.phase',
        'unit/backends/test_intensities.py::test_the_phase_is_fitted_alone_unless_the_beam_drifts',
    ),
    Undoing(
        24,
        'backends/common/probe_gauge.py',
        'return ProbeGauge(-np.asarray(np.angle(slopes), dtype=np.float64), np.zeros(2))',
        'return ProbeGauge(np.zeros(2), np.zeros(2))',
        'unit/backends/test_probe_gauge.py::test_a_guess_levels_the_object',
    ),
    Undoing(
        25,
        'data/readers/domain.py',
        "return 'counts', f'they are integers ({patterns.dtype})'",
        "return 'amplitudes', 'PtychoPINN holds amplitudes'",
        'unit/data/test_npz.py::test_the_domain_is_inferred_by_a_stated_rule',
    ),
    Undoing(
        26,
        'storage/scratch.py',
        'if not is_stored(array):\n        return change(array)',
        'if True:\n        return change(array)',
        'unit/storage/test_scratch.py::test_rows_are_taken_and_converted_as_in_memory',
    ),
    Undoing(
        27,
        'data/readers/empad.py',
        "limits().follow(raw, path, f'{path} names the raw file {raw}')",
        'pass',
        'unit/data/test_electron_files.py::test_an_empad_leads_to_no_other_folder',
    ),
    Undoing(
        28,
        'streaming/store.py',
        'if not self.keeps:\n                    free',
        'if True:\n                    free',
        'unit/streaming/test_live.py::test_a_scan_that_is_kept_never_waits_for_the_network',
    ),
    Undoing(
        29,
        'backends/common/ranks.py',
        'return clock() if self._is_alone else self.decide(clock())',
        'return clock()',
        'ranks/test_results.py::test_the_clock_of_rank_0_counts',
    ),
    Undoing(
        30,
        'backends/common/opr.py',
        'if not held.any() or not np.ptp(from_middle, axis=0).all():',
        'if True:',
        'unit/backends/test_opr.py::test_a_rising_tilt_is_a_phase_of_the_object',
    ),
    Undoing(
        31,
        'cli/reconstruct.py',
        'choice, opened, fitted, config.inference',
        'choice, opened, opened.fitted(fitted), config.inference',
        'unit/cli/test_read_once.py::test_a_scan_is_fitted_and_checked_once',
    ),
    Undoing(
        32,
        'physics/propagation.py',
        'return np.fft.ifft2(np.fft.fft2(waves) * transfer)',
        "return np.fft.fft2(waves, norm='ortho')",
        'parity/test_near_field.py::test_patterns_are_those_of_the_oracle',
    ),
    Undoing(
        33,
        'backends/common/constraints.py',
        'weight = self._constraints.total_variation * self._noise * (1 - kept**self._overlap)',
        'weight = self._constraints.total_variation * self._noise',
        'unit/backends/test_constraints.py::test_the_weight_falls_with_what_the_patterns_still_move',
    ),
    Undoing(
        34,
        'backends/common/backend.py',
        'return Model.built_in() if wants else None',
        'return None',
        'parity/test_prior.py::test_the_built_in_model_goes_on_where_a_trained_network_ends',
    ),
    Undoing(
        35,
        'backends/common/starts.py',
        'return best if best.score(flat) < MAX_SCORE else flat',
        'return flat',
        'unit/backends/test_starts.py::test_a_kind_is_the_start_where_it_does_as_well_as_a_flat_object',
    ),
)

NOT_UNDONE = {22: 'only a card shows whether an iteration waits for it'}
"""These decisions are undone by no change of a few words, for the reason that is given."""


def outcome(copy: Path, test: str) -> str:
    """Return how a test ended: 'passed', 'failed', 'skipped', or that it did not run."""
    words = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', f'tests/{test}']
    environment = {**os.environ, 'PYTHONPATH': str(copy), 'QT_QPA_PLATFORM': 'offscreen'}
    done = subprocess.run(
        words, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return 'passed' if ' passed' in done.stdout else 'skipped'
    # Other codes stand for tests that could not be collected, which nobody has noticed anything by.
    return 'failed' if done.returncode == 1 else f'did not run: {done.stdout[-300:]}'


def undo(copy: Path, undoing: Undoing) -> str:
    """Return how the test of a decision ends without it: 'noticed', 'skipped', or what is wrong."""
    path = copy / 'ptychopinn_plugin' / undoing.path
    text = path.read_text(encoding='utf-8')
    if text.count(undoing.old) != 1:
        return f'{undoing.path} must hold once: {undoing.old}'
    before = outcome(copy, undoing.test)
    if before != 'passed':
        return before
    path.write_text(text.replace(undoing.old, undoing.new), encoding='utf-8')
    try:
        after = outcome(copy, undoing.test)
    finally:
        path.write_text(text, encoding='utf-8')
    return 'noticed' if after == 'failed' else f'NOT NOTICED: {after}'


def main() -> None:
    """Undo the decisions, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('decisions', type=int, nargs='*', metavar='NUMBER')
    chosen = parser.parse_args().decisions
    is_complete = True
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'copy'
        shutil.copytree(ROOT, copy, ignore=LEFT_BEHIND)
        for undoing in UNDOINGS:
            if chosen and undoing.decision not in chosen:
                continue
            found = undo(copy, undoing)
            is_complete &= found in ('noticed', 'skipped')
            print(f'{undoing.decision:2d}  {found}  {undoing.test}', flush=True)
    sys.exit(not is_complete)


if __name__ == '__main__':
    main()
