"""Pickles: plain values come out, and whatever could run code is refused by name, unrun."""

import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.pickles import LARGEST_PICKLE_BYTES, MOST_KEYS, read_pickle
from ptychopinn_plugin.legacy.values import Record

PLAIN = {
    'text': 'a ü',
    'long text': 'x' * 300,
    'bytes': b'\0\xff' * 200,
    'numbers': [0, 1, -1, 255, 65536, 2**40, -(2**70), 1.5, float('inf'), True, False, None],
    'complex': 1 + 2j,
    'nested': {'list': [[], [1, [2]]], 'tuples': ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
    'set': {1, 2},
    'ordered': OrderedDict(a=1, b=2),
}


@pytest.mark.parametrize('protocol', range(6))
def test_plain_values(protocol: int) -> None:
    assert read_pickle(pickle.dumps(PLAIN, protocol), 'here') == PLAIN


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize(
    'array',
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype='>f8').reshape(2, 3)),
        np.array([[1 + 2j, 3]], dtype=np.complex64),
        np.array([True, False]),
        np.zeros((0, 4), np.int16),
    ],
    ids=str,
)
def test_arrays(array: Any, protocol: int) -> None:
    found = read_pickle(pickle.dumps({'a': [array], 'b': array}, min(protocol, 4)), 'here')
    assert np.array_equal(found['a'][0], array)
    assert found['b'] is found['a'][0]
    assert found['b'].dtype == array.dtype.newbyteorder('=')


def test_numbers_of_numpy() -> None:
    values = {'x': np.float64(1.5), 'n': np.int32(-3), 'b': np.True_}
    assert read_pickle(pickle.dumps(values, 4), 'here') == {'x': 1.5, 'n': -3, 'b': True}


def test_paths_become_text() -> None:
    assert read_pickle(pickle.dumps(PurePosixPath('/a/b.npz'), 4), 'here') == '/a/b.npz'


def short(text: str) -> bytes:
    return b'\x8c' + bytes([len(text)]) + text.encode()


def global_(module: str, name: str) -> bytes:
    return short(module) + short(name) + b'\x93'


def test_configuration_classes_become_records() -> None:
    state = pickle.dumps({'N': 64, 'grid_size': (2, 2)}, 2)[2:-1]
    data = b'\x80\x04' + global_('ptycho_torch.config_params', 'DataConfig') + b')\x81' + state
    found = read_pickle(data + b'b.', 'here')
    assert isinstance(found, Record)
    assert (found.type_name, dict(found)) == ('DataConfig', {'N': 64, 'grid_size': (2, 2)})


class Hostile:
    """Pickles as a call of whatever it is given."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def system(command: str) -> bytes:
    """Return the pickle of a call of os.system, under the name by which it is known everywhere."""
    return b'\x80\x04' + global_('os', 'system') + short(command) + b'\x85R.'


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return the file that a hostile pickle makes where it runs."""
    return tmp_path / 'trace'


def test_the_hostile_pickle_is_one(trace: Path, tmp_path: Path) -> None:
    # Else the tests below would prove nothing.
    (tmp_path / 'data').write_bytes(system(f'touch {trace}'))
    code = f'import pickle; pickle.load(open({str(tmp_path / "data")!r}, "rb"))'
    subprocess.run([sys.executable, '-c', code], check=True)
    assert trace.exists()


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_nothing_runs(trace: Path, protocol: int) -> None:
    code = f'open({str(trace)!r}, "w")'
    hostile = {
        'os.system': system(f'touch {trace}'),
        'builtins': pickle.dumps({'N': Hostile(eval, code)}, protocol),
        'getattr': pickle.dumps([Hostile(getattr, 1, 'real')], protocol),
        'subprocess.Popen': pickle.dumps(Hostile(subprocess.Popen, ['touch', str(trace)]), 4),
        'numpy.load': pickle.dumps(Hostile(np.load, str(trace)), 4),
        'pickle._loads': b'\x80\x04' + global_('pickle', '_loads') + b'C\x00\x85R.',
        'ptycho.model.DataConfig.load': b'\x80\x04' + global_('ptycho.model', 'DataConfig.load'),
    }
    for name, data in hostile.items():
        with pytest.raises(ArchiveError, match=r'is refused: it names') as raised:
            read_pickle(data, 'here')
        assert name.removesuffix('.Popen') in str(raised.value).replace('__builtin__', 'builtins')
    assert not trace.exists()


def test_no_module_is_imported() -> None:
    assert 'antigravity' not in sys.modules
    with pytest.raises(ArchiveError, match=r'antigravity\.geohash'):
        read_pickle(b'cantigravity\ngeohash\n.', 'here')
    assert 'antigravity' not in sys.modules


RECONSTRUCT = global_('numpy._core.multiarray', '_reconstruct')
NDARRAY, DTYPE = global_('numpy', 'ndarray'), global_('numpy', 'dtype')
FLOATS = DTYPE + short('f4') + b'\x89\x88\x87R'
OBJECTS = DTYPE + short('O') + b'\x89\x88\x87R'
EMPTY = RECONSTRUCT + NDARRAY + b'K\x00\x85C\x01b\x87R'


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (OBJECTS + b'.', 'an array of object'),
        (DTYPE + short('V4') + b'\x89\x88\x87R.', 'an array of'),
        (DTYPE + short('O8') + b'\x89\x88\x87R.', 'no pickle of plain values'),
        (EMPTY + b'(K\x01K\x09\x85' + FLOATS + b'\x89C\x04aaaatb.', 'an array of shape'),
        (EMPTY + b'(K\x01J\xff\xff\xff\xff\x85' + FLOATS + b'\x89C\x04aaaatb.', 'a shape'),
        (EMPTY + b'(K\x01K\x01\x85' + FLOATS + b'\x89]tb.', 'an array of objects'),
        (NDARRAY + b'K\x04\x85R.', 'an array made from arguments'),
        (NDARRAY + b'K\x04\x85b.', 'a state for a Global'),
        (b'cos\nsystem\n.', 'names os.system'),
        (b'(ios\nsystem\n.', 'names os.system'),
        (b'(icollections\nOrderedDict\n.', 'instruction INST'),
        (b'\x82\x01.', 'instruction EXT1'),
        (b'\x97.', 'instruction NEXT_BUFFER'),
        (b'(c__builtin__\nset\no.', 'instruction OBJ'),
        (b'P1\n.', 'outside the pickle'),
        (b'K\x01Q.', 'outside the pickle'),
        (b'K\x01K\x02\x85R.', 'no known global'),
        (global_('builtins', 'set') + b']K\x01\x85a\x85R.', 'damaged, or no pickle'),
        (b'}))\x86)\x86K\x01s.', 'a tuple as a key'),
        (b'}]K\x01s.', 'a list as a key'),
        (b'r\xff\xff\xff\xff.', 'damaged, or no pickle'),
        (b'', 'truncated|damaged'),
        (b'K\x01', 'truncated|damaged'),
        (b'not a pickle', 'damaged, or no pickle'),
        (b'(.', 'damaged, or no pickle'),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_pickle(data, 'here')


def test_references_make_no_mountains() -> None:
    # Tuples that hold the one before twice: hashing the last would never end.
    nested = b')' + b''.join(b'\x94h%c\x86' % index for index in range(60))
    with pytest.raises(ArchiveError, match='as a key'):
        read_pickle(b'}' + nested + b'K\x01s.', 'here')


def test_too_many_keys_are_refused() -> None:
    many = dict.fromkeys(range(MOST_KEYS + 1))
    for values in (many, set(many), [frozenset(many)]):
        with pytest.raises(ArchiveError, match='more than 50000 keys'):
            read_pickle(pickle.dumps(values, 4), 'here')


def test_a_huge_pickle_is_refused_unread() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return LARGEST_PICKLE_BYTES + 1

    with pytest.raises(ArchiveError, match='at most'):
        read_pickle(Huge(b'K\x01.'), 'here')
