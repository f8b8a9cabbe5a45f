"""Train a network on one scan, and see the object of another scan with it.

    python examples/train_and_reconstruct.py --output result

Both scans are simulated here. `pp.load_scan('scan.npz')` reads your own.
"""

import argparse
from pathlib import Path

import ptychopinn_plugin as pp
from ptychopinn_plugin.plots import plot_reconstruction, plot_training

parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
parser.add_argument('--output', type=Path, default=Path('example-output'), help='folder')
parser.add_argument('--max-minutes', type=float, default=1.0, help='of training')
parser.add_argument('--epochs', type=int, default=1000, help='of training, at most')
parser.add_argument('--side', type=int, default=16, help='rows and columns of the scans')
options = parser.parse_args()
options.output.mkdir(parents=True, exist_ok=True)

# Two scans with the same probe. Another seed makes another object, which training never sees.
known = pp.simulate(pp.SimulationConfig(rows=options.side, columns=options.side, seed=3))
unseen = pp.simulate(pp.SimulationConfig(rows=options.side, columns=options.side, seed=8))


def show(progress: pp.Progress) -> bool:
    """Print a line after each epoch. To return True would end the training with its best model."""
    if progress.stage == 'train':
        print(f'epoch {progress.step}: loss {progress.losses["loss"]:.4f}')
    return False


# Training needs patterns, positions and a probe, and no labels.
training = pp.TrainingConfig(epochs=options.epochs, max_minutes=options.max_minutes)
trained = pp.train(known, pp.Config(training=training), observer=show)
pp.save_model(options.output / 'wts.h5.zip', trained.model)
plot_training(trained.history, options.output / 'losses.png')

# The network predicts the patches, they are stitched, and the object is refined.
result = pp.reconstruct(options.output / 'wts.h5.zip', unseen)
plot_reconstruction(result, options.output / 'object.png', truth=unseen.object_)
pp.write_reconstruction(options.output / 'reconstruction.npz', result)

# The true object of a simulated scan is known, so the result can be judged.
quality = pp.evaluate(result, unseen)
print(f'residual of the amplitudes: {result.amplitude_residual:.4f}')
print(f'similarity of the phase (SSIM): {quality.phase.ssim:.2f}')
