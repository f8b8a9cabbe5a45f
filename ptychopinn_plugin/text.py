"""Words that messages, plots and the command line share."""


def count(number: int, word: str, plural: str = 's') -> str:
    """Return a number with its noun."""
    return f'{number:,} {word}{"" if number == 1 else plural}'
