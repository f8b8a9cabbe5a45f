"""Words that messages, plots and the command line share."""

ENDS = {
    'epochs': 'all epochs are done',
    'max-minutes': 'the time limit was reached',
    'early-stop': 'the validation loss no longer improved',
    'request': 'it was stopped',
    'diverged': 'the loss was no longer a number',
}
"""A sentence about the end of a training ends so, by `backends.protocol.TrainingResult.stopped`."""


def count(number: int, word: str, plural: str = 's') -> str:
    """Return a number with its noun."""
    return f'{number:,} {word}{"" if number == 1 else plural}'
