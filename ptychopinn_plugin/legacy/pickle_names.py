"""The names in pickles that are not needed: looked through, never carried out.

A file that holds something to run is refused even where nobody would run it, as it was made to do
harm where other programs open it.
"""

import contextlib
import io
import pickletools
from collections.abc import Iterator

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.budget import Budget
from ptychopinn_plugin.legacy.pickles import (
    DAMAGE,
    MAX_NAME,
    MAX_PICKLE_BYTES,
    is_known,
    memo_key,
    refused_name,
)
from ptychopinn_plugin.storage.untrusted import open_zip

SUFFIXES = ('.dill', '.pkl', '.pickle', '.pth', '.pt', '.ckpt')

PACKAGES = frozenset(('ptycho', 'ptycho_torch', 'keras', 'tensorflow'))
"""The layers and losses that PtychoPINN's `custom_objects.dill` names belong to these."""

HARMLESS = frozenset([('dill._dill', '_load_type')])
"""With this dill names a type of Python itself; its other functions can make code."""

MAX_PICKLES = 5
"""A file may hold this number of pickles in a row: torch before 1.6 wrote three."""


def check_pickle_member(data: bytes, source: str, budget: Budget) -> None:
    """Refuse a member that names something which could run code.

    Parameters
    ----------
    data : bytes
        A pickle, or a zip of `torch.save` that holds some.
    source : str
        The file and member, for messages.
    budget : Budget
        Of the whole file.

    Raises
    ------
    ArchiveError
        Naming the first global that is not known, harmless or of `PACKAGES`, or if the names
        cannot be determined.
    """
    if data.startswith(b'PK'):
        with open_zip(data, source) as archive:
            for name in archive.names():
                if name.endswith('.pkl'):
                    inner = archive.read(name, largest=MAX_PICKLE_BYTES)
                    _check_names(inner, f'{source}: {name}', budget)
    else:
        _check_names(data, source, budget)


def bare_pickle_name(data: bytes) -> str:
    """Return the first global of a pickle that is not known, or else the first, or else ''."""
    first = ''
    with contextlib.suppress(ArchiveError, *DAMAGE):
        for module, name in pickle_names(data, Budget('')):
            first = first or f'{module}.{name}'
            if not is_known(module, name):
                first = f'{module}.{name}'
                break
    return first[:MAX_NAME]


def pickle_names(data: bytes, budget: Budget) -> Iterator[tuple[str, str]]:
    """Yield the module and name of each global of pickles that follow one another, in order.

    Raises
    ------
    ValueError
        If they are no pickles, or make a name in a way that no pickler does.
    """
    stream = io.BytesIO(data)
    for _ in range(MAX_PICKLES):
        if stream.tell() < len(data):
            yield from _names(stream, budget)


def _names(stream: io.BytesIO, budget: Budget) -> Iterator[tuple[str, str]]:
    # The stack itself is not followed: picklers put module and name there right before they are
    # used, and whatever does it in another way is refused.
    memo: dict[int, str | None] = {}
    # These are what the last two instructions put on the stack, where it was text.
    before: str | None = None
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        budget.step()
        name = opcode.name
        if name in ('GLOBAL', 'INST'):
            module, _, attribute = str(argument).partition(' ')
            yield module, attribute
        elif name == 'STACK_GLOBAL':
            if before is None or last is None:
                raise ValueError('a global whose name is made in an unusual way')
            yield before, last
        elif name.startswith('EXT'):
            raise ValueError(f'the instruction {name}')
        if name == 'MEMOIZE' or 'PUT' in name:
            memo[memo_key(len(memo) if argument is None else argument)] = last
        elif 'GET' in name:
            before, last = last, memo.get(memo_key(argument))
        elif name not in ('PROTO', 'FRAME'):
            is_text = name.endswith(('STRING', 'UNICODE', 'UNICODE8'))
            before, last = last, str(argument) if is_text else None


def _check_names(data: bytes, source: str, budget: Budget) -> None:
    try:
        for module, name in pickle_names(data, budget):
            is_ours = module.split('.', 1)[0] in PACKAGES and '.' not in name
            is_harmless = is_ours or (module, name) in HARMLESS
            if not is_harmless and not is_known(module, name):
                raise refused_name(source, module, name)
    except DAMAGE as error:
        raise ArchiveError(
            f'{source} is refused: what it names cannot be determined: {str(error)[:200]}.'
        ) from error
