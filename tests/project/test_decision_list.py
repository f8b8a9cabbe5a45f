"""Each numbered decision (docs/decisions) has a test that fails where the decision is undone."""

import ast
from pathlib import Path

import pytest
from programs import load_program

TESTS = Path(__file__).parents[1]
DECISIONS = Path(__file__).parents[2] / 'docs' / 'decisions'
PACKAGE = Path(__file__).parents[2] / 'ptychopinn_plugin'

NOTICED_BY = {
    1: """
        contract/test_decisions.py::test_1_the_object_is_cut_at_whole_pixels_and_the_probe_takes_the_rest
        parity/test_physics.py::test_shifted_probes
    """,
    2: """
        contract/test_decisions.py::test_2_the_network_corrects_back_projections_pass_by_pass
        contract/test_decisions.py::test_2_the_network_sees_what_the_patterns_ask_for
        unit/backends/test_augmentation.py::test_dense_and_sparse_sub_scans_are_drawn
        unit/backends/test_augmentation.py::test_short_exposures_are_drawn
    """,
    3: """
        contract/test_decisions.py::test_3_the_best_iteration_is_returned
        unit/backends/test_refinement.py::test_a_step_of_all_that_is_as_good_leaves_the_best
    """,
    4: """
        contract/test_decisions.py::test_4_one_choice_of_photons
        contract/test_decisions.py::test_4_the_scale_of_a_probe_means_nothing
    """,
    5: """
        contract/test_decisions.py::test_5_iterations_correct_the_slow_phase
        contract/test_decisions.py::test_5_every_fifth_iteration_corrects_the_slow_phase
        contract/test_decisions.py::test_5_prediction_corrects_the_slow_phase_after_the_last_pass
    """,
    6: 'host/test_worker.py::test_the_second_inference_starts_at_once',
    7: 'host/test_bridge.py::test_the_stock_host_has_our_algorithms_once',
    8: """
        contract/test_decisions.py::test_8_rounding_errors_have_no_phase_and_the_truth_asks_for_no_change
        parity/test_physics.py::test_the_phase_of_rounding_errors_has_no_say
    """,
    9: """
        contract/test_decisions.py::test_9_a_graph_serves_for_any_number_of_patterns_and_weights_are_plain_tensors
    """,
    10: 'contract/test_training.py::test_the_model_is_an_average_over_epochs',
    11: """
        contract/test_reconstruction.py::test_a_scan_of_little_overlap_is_looked_at_in_four_rotations
        unit/backends/test_sampling.py::test_a_sub_scan_is_met_in_all_passes_and_rotations
    """,
    12: 'project/test_names.py::test_names_that_were_given_up_are_gone',
    13: 'parity/test_prior.py::test_a_pass_follows_each_block_of_iterations',
    14: """
        unit/storage/test_lock.py::test_a_second_run_is_refused_in_one_line
        unit/storage/test_lock.py::test_the_lock_of_another_machine_is_never_taken_over
        unit/cli/test_outputs.py::test_two_runs_never_share_a_folder
        unit/cli/test_outputs.py::test_where_one_file_cannot_have_its_name_all_go_back
    """,
    15: 'unit/cli/test_reproduce.py::test_every_file_tells_its_model_inputs_and_settings',
    16: """
        unit/checking/test_search.py::test_no_exposure_of_a_held_out_place_is_fitted
        unit/checking/test_search.py::test_a_gain_is_judged_pattern_by_pattern
        contract/test_check.py::test_held_out_patterns_tell_a_fault
        contract/test_check.py::test_a_trial_is_judged_by_patterns_that_it_was_not_made_from
    """,
    17: 'unit/backends/test_threads.py::test_the_most_threads_that_do_not_wait',
    18: """
        unit/backends/test_probe_search.py::test_a_probe_that_hardly_overlaps_is_not_taken
        contract/test_probes.py::test_a_probe_is_found_from_nothing
    """,
    19: """
        unit/backends/test_iteration_plan.py::test_more_iterations_where_illuminations_overlap_little
        unit/backends/test_iteration_plan.py::test_the_light_decides_whether_the_prior_has_a_say
        unit/data/test_single_shots.py::test_illuminations_that_do_not_touch_are_taken_alone_and_a_warning_says_so
        parity/test_prior.py::test_passes_that_lead_away_from_the_data_are_taken_back
        unit/backends/test_iteration_schedule.py::test_a_limit_takes_the_course_faster_and_to_its_end
        unit/backends/test_iteration_schedule.py::test_iterations_that_gain_no_more_let_the_steps_fall_and_end
    """,
    20: """
        unit/physics/test_uncertainty.py::test_it_is_the_error_of_the_best_filter
        contract/test_uncertainty.py::test_it_covers_the_truth
    """,
    21: """
        parity/test_iterations.py::test_patterns_alone_move_at_once_as_far_as_one_by_one
        parity/test_iterations.py::test_only_patterns_that_share_nothing_move_at_once
        parity/test_iterations.py::test_patterns_alone_have_no_slow_phase
    """,
    22: """
        unit/backends/test_pytorch_on_cuda.py::test_an_iteration_never_waits
        unit/backends/test_pytorch_on_cuda.py::test_an_object_is_judged_in_one_look
        unit/backends/test_pytorch_on_cuda.py::test_a_training_step_looks_once
    """,
    23: """
        parity/test_intensities.py::test_the_moments_are_those_of_the_derivatives
        contract/test_intensities.py::test_a_drifting_beam_costs_nothing_where_it_is_refined
        unit/backends/test_intensities.py::test_the_phase_is_fitted_alone_unless_the_beam_drifts
    """,
    24: """
        contract/test_intensities.py::test_a_refined_probe_leaves_no_ramp_in_the_phase
        unit/backends/test_probe_gauge.py::test_a_guess_levels_the_object
        parity/test_iterations.py::test_an_object_is_levelled_where_its_probe_was_a_guess
    """,
    25: """
        unit/data/test_npz.py::test_the_domain_is_inferred_by_a_stated_rule
        unit/data/test_npz.py::test_integer_amplitudes_are_squared_without_overflow
        unit/backends/test_amplitudes.py::test_a_forward_model_gets_the_roots_of_counts
    """,
    26: """
        contract/test_storage.py::test_the_same_object
        contract/test_storage.py::test_memory_stays_flat
        unit/storage/test_scratch.py::test_rows_are_taken_and_converted_as_in_memory
    """,
    27: """
        unit/data/test_matlab.py::test_bytes_that_make_no_sense
        unit/data/test_matlab.py::test_what_is_no_array_of_numbers
        unit/data/test_electron_files.py::test_an_empad_leads_to_no_other_folder
        unit/data/test_electron_files.py::test_a_raw_file_alone
    """,
    28: """
        unit/streaming/test_live.py::test_a_scan_that_is_kept_never_waits_for_the_network
        unit/streaming/test_live.py::test_a_slow_network_makes_the_source_wait
        unit/streaming/test_live.py::test_the_built_in_model_iterates_again_when_a_quarter_is_new
        unit/streaming/test_assembly.py::test_positions_in_metres_are_those_of_a_product
        contract/test_stream.py::test_the_object_at_the_end_is_that_of_reconstruct
    """,
    29: """
        ranks/test_results.py::test_an_update_is_the_sum_over_ranks
        ranks/test_results.py::test_the_clock_of_rank_0_counts
        ranks/test_commands.py::test_a_killed_rank_ends_the_training
    """,
    30: """
        host/test_probe_variation.py::test_each_pattern_has_the_probe_that_ptychodus_gives_it
        contract/test_opr.py::test_a_probe_that_wobbles_costs_less_where_it_is_relaxed
        unit/backends/test_opr.py::test_a_rising_tilt_is_a_phase_of_the_object
    """,
    31: """
        unit/cli/test_read_once.py::test_a_scan_is_fitted_and_checked_once
        unit/cli/test_read_once.py::test_no_backend_fits_or_checks_a_scan
        contract/test_backend.py::test_patterns_of_another_size_are_fitted_before
    """,
    32: """
        unit/physics/test_propagation.py::test_images_stay_where_the_detector_is
        unit/data/test_near_field_products.py::test_images_that_ptychodus_simulates_fit_our_model
        parity/test_near_field.py::test_patterns_are_those_of_the_oracle
        contract/test_near_field.py::test_the_built_in_model_is_left_out_and_says_so
    """,
    33: """
        contract/test_constraints.py::test_total_variation_decides_what_patterns_leave_open
        contract/test_constraints.py::test_bounds_and_kinds_hold_in_the_result
        unit/backends/test_constraints.py::test_the_weight_falls_with_what_the_patterns_still_move
        unit/backends/test_iteration_plan.py::test_little_overlap_has_a_total_variation
    """,
    34: """
        parity/test_prior.py::test_the_built_in_model_goes_on_where_a_trained_network_ends
        parity/test_prior.py::test_the_first_block_begins_with_the_object_of_the_network
    """,
    35: """
        contract/test_starts.py::test_the_kind_of_the_object_is_the_better_start
        contract/test_starts.py::test_an_object_of_both_kinds_starts_flat
        unit/backends/test_starts.py::test_a_kind_is_the_start_where_it_does_as_well_as_a_flat_object
    """,
}
"""These tests fail where a decision is undone."""


def test_every_decision_is_noticed_by_a_test() -> None:
    numbers = [int(path.name[:4]) for path in sorted(DECISIONS.glob('0*.md'))]
    assert numbers == list(range(1, len(numbers) + 1))
    assert list(NOTICED_BY) == numbers
    assert all(names.split() for names in NOTICED_BY.values())


@pytest.mark.parametrize('number', NOTICED_BY)
def test_the_tests_that_notice_are_there(number: int) -> None:
    for name in NOTICED_BY[number].split():
        path, _, function = name.partition('::')
        tree = ast.parse((TESTS / path).read_text(encoding='utf-8'))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function in functions, name


def test_every_decision_can_be_undone() -> None:
    """The changes of `benchmarks/undo_decisions.py` fit the code; it runs the tests."""
    program = load_program('benchmarks/undo_decisions.py')
    undone = {undoing.decision for undoing in program.UNDOINGS}
    assert undone | set(program.NOT_UNDONE) == set(NOTICED_BY)
    assert not undone & set(program.NOT_UNDONE)
    for undoing in program.UNDOINGS:
        text = (PACKAGE / undoing.path).read_text(encoding='utf-8')
        assert text.count(undoing.old) == 1, undoing
        assert undoing.test in NOTICED_BY[undoing.decision].split(), undoing


@pytest.mark.parametrize('path', sorted(DECISIONS.glob('0*.md')), ids=lambda path: path.name[:4])
def test_a_decision_has_the_number_of_its_file(path: Path) -> None:
    title = path.read_text(encoding='utf-8').partition('\n')[0]
    assert title.startswith(f'# {int(path.name[:4])}. ')
