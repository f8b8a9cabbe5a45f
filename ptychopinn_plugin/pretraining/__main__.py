"""Train the learned prior on simulated scans, or go on with it.

    python -m ptychopinn_plugin.pretraining --state state.zip --model model.zip --curve curve.csv

A run that is cut off loses at most the rounds since the last state.
"""

import argparse
import dataclasses
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from ptychopinn_plugin.model_file import write_model
from ptychopinn_plugin.pretraining.evaluation import append_row, held_out_scans, score_all
from ptychopinn_plugin.pretraining.recipe import LOSSES, Recipe

logger = logging.getLogger(__name__)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog='python -m ptychopinn_plugin.pretraining')
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--state', type=Path, required=True, help='where to go on, and to save')
    parser.add_argument('--model', type=Path, help='write the averaged weights here at the end')
    parser.add_argument('--curve', type=Path, help='add the quality on held-out scans to this CSV')
    parser.add_argument('--rounds', type=int, default=recipe.rounds, help='when to end')
    parser.add_argument('--seed', type=int, default=recipe.seed)
    parser.add_argument('--evaluate-every', type=int, default=20, help='rounds')
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    # A framework is imported only where it is used.
    from ptychopinn_plugin.backends.pytorch.adapter import PyTorchBackend
    from ptychopinn_plugin.pretraining.learner import Learner, use_threads

    use_threads(options.threads)
    recipe = dataclasses.replace(Recipe(), seed=options.seed, rounds=options.rounds)
    learner = Learner(recipe)
    if options.state.exists():
        learner.load(options.state)
    scans = held_out_scans() if options.curve else []

    def evaluate(losses: Mapping[str, float]) -> None:
        scores = score_all(scans, PyTorchBackend(), learner.model())
        progress = {'round': learner.round, 'step': learner.step}
        row = {**progress, 'minutes': learner.seconds / 60, **losses, **scores}
        append_row(options.curve, row)
        logger.info('%s', {name: round(value, 3) for name, value in scores.items()})

    if scans and learner.round == 0:
        # A new network changes nothing: what physics and iterations reach without one.
        evaluate(dict.fromkeys(LOSSES, float('nan')))
    while learner.round < recipe.rounds:
        started = time.perf_counter()
        losses = learner.train_round()
        seconds = time.perf_counter() - started
        learner.seconds += seconds
        text = ' '.join(f'{name} {value:.3f}' for name, value in losses.items())
        logger.info('round %d step %d %.1f s: %s', learner.round, learner.step, seconds, text)
        is_last = learner.round == recipe.rounds
        if learner.round % recipe.save_every == 0 or is_last:
            learner.save(options.state)
        if scans and (learner.round % options.evaluate_every == 0 or is_last):
            evaluate(losses)
    if options.model:
        write_model(options.model, learner.model())


if __name__ == '__main__':
    main()
