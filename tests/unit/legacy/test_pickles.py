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
from ptychopinn_plugin.legacy import budget
from ptychopinn_plugin.legacy.pickle_names import (
    bare_pickle_name,
    check_pickle_member,
    pickle_names,
)
from ptychopinn_plugin.legacy.pickles import MAX_PICKLE_BYTES, read_pickle
from ptychopinn_plugin.legacy.values import MAX_KEYS, Record

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
        (b'}))\x86)\x86K\x01s.', 'a key of type tuple'),
        (b'}]K\x01s.', 'a key of type list'),
        (b'}\x8a\x08' + (2**61 - 1).to_bytes(8, 'little') + b'K\x01s.', 'a key of type int'),
        (global_('builtins', 'frozenset') + b'](K\x01\x85e\x85R.', 'type tuple'),
        (b'}' + global_('builtins', 'complex') + b'K\x01\x85RK\x01s.', 'a key of type complex'),
        (global_('builtins', 'complex') + short('1') + b'\x85R.', 'made from something else'),
        (global_('builtins', 'set') + b'](\x8a\x09123456789e\x85R.', 'a key of type int'),
        (b'K\x01p4294967296\n.', 'a memo key'),
        (b'ctorch._utils\n_rebuild_parameter\n(' + b'N' * 257 + b'tR.', 'more than 256 values'),
        (DTYPE + b']\x85R.', 'a data type without a code'),
        (DTYPE + short('f4') + b'\x85R(K\x03]NNNJ\xff\xff\xff\xffK\x00K\x00tb.', 'byte order'),
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
    with pytest.raises(ArchiveError, match='a key of type tuple'):
        read_pickle(b'}' + nested + b'K\x01s.', 'here')


def test_too_many_keys_are_refused() -> None:
    many = dict.fromkeys(range(MAX_KEYS + 1))
    for values in (many, set(many), [frozenset(many)]):
        with pytest.raises(ArchiveError, match='more than 50000 keys'):
            read_pickle(pickle.dumps(values, 4), 'here')


def test_a_huge_pickle_is_refused_unread() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_PICKLE_BYTES + 1

    with pytest.raises(ArchiveError, match='at most'):
        read_pickle(Huge(b'K\x01.'), 'here')


@pytest.mark.parametrize(
    ('module', 'name', 'message'),
    [('pathlib', 'PosixPath', 'a path of more'), ('torch', 'device', 'a device of more')],
)
def test_texts_do_not_double_for_ever(module: str, name: str, message: str) -> None:
    doubling = (
        global_(module, name) + b'\x94' + short('A' * 32) + b'\x94' + b'h\0h\1h\1\x86Rq\1' * 40
    )
    with pytest.raises(ArchiveError, match=message):
        read_pickle(b'\x80\4' + doubling + b'.', 'here')


LIST, SET, CLASS = b'cbuiltins\nlist\n', b'cbuiltins\nset\n', b'cptycho\nDataConfig\n'
HUNDRED = b']q\1(' + b'K\1' * 100 + b'e'
FIELDS = b'}q\1' + short('a') + b'K\1s'
STATE = b'(K\1K\x64\x85' + DTYPE + short('u1') + b'\x85R\x89C\x64' + b'a' * 100 + b'tq\1'


@pytest.mark.parametrize(
    ('first', 'again'),
    [
        (LIST + b'q\0' + HUNDRED, b'h\0h\1\x85R0'),
        (SET + b'q\0' + HUNDRED, b'h\0h\1\x85R0'),
        (b'ctorch\nSize\nq\0' + HUNDRED, b'h\0h\1\x85R0'),
        (b'c_codecs\nencode\nq\0' + short('a' * 200) + b'q\1', b'h\0h\1\x85R0'),
        (CLASS + b')Rq\0' + FIELDS, b'h\0h\1b0'),
        (RECONSTRUCT + b'q\0' + STATE, b'h\0)Rh\1b0'),
    ],
)
def test_references_copy_no_mountains(
    monkeypatch: pytest.MonkeyPatch, first: bytes, again: bytes
) -> None:
    monkeypatch.setattr(budget, 'MAX_GROWTH_BYTES', 30_000)
    assert read_pickle(first + again + b'.', 'here') is not None
    with pytest.raises(ArchiveError, match='here is refused: it would grow beyond 30000 bytes'):
        read_pickle(first + again * 1000 + b'.', 'here')


def test_endless_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, 'MAX_INSTRUCTIONS', 100)
    assert read_pickle(b'N0' * 49 + b'N.', 'here') is None
    with pytest.raises(ArchiveError, match='more than 100 instructions'):
        read_pickle(b'N0' * 50 + b'N.', 'here')


@pytest.mark.parametrize('protocol', range(6))
def test_names_are_told_without_running(trace: Path, protocol: int) -> None:
    values = [OrderedDict(a=OrderedDict()), Hostile(exec, f'open({str(trace)!r}, "w")')]
    data = pickle.dumps(values, protocol)
    names = list(pickle_names(data, budget.Budget('here')))
    assert names[0] == ('collections', 'OrderedDict')
    assert names[-1] in [('builtins', 'exec'), ('__builtin__', 'exec')]
    assert bare_pickle_name(data).endswith('builtin__.exec' if protocol < 3 else 'builtins.exec')
    with pytest.raises(ArchiveError, match=r'exec, which could run code'):
        check_pickle_member(data, 'here', budget.Budget('here'))
    assert not trace.exists()


def test_names_of_the_package_itself_are_no_harm() -> None:
    data = b'}' + short('x') + b'cptycho.custom_layers\nScaleLayer\nscdill._dill\n_load_type\n.'
    check_pickle_member(data, 'here', budget.Budget('here'))


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'cdill._dill\n_create_function\n.', 'names dill._dill._create_function'),
        (b'cptycho.model\nnp.os.system\n.', 'names ptycho.model.np.os.system'),
        (short('system') + short('os') + short('x') + b'0\x93.', 'an unusual way'),
        (short('os') + short('sys') + b'2\x93.', 'an unusual way'),
        (b'\x82\1.', 'the instruction EXT1'),
        (b'K\1.cos\nsystem\n.', 'names os.system'),
        (b'no pickle', 'cannot be determined'),
    ],
)
def test_names_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        check_pickle_member(data, 'here', budget.Budget('here'))
