"""Read pickled plain values without executing anything: a machine without imports.

A pickle is a program for a stack machine whose instructions can name any function of any module
and call it. This machine carries out the instructions that build plain values and looks every name
up in a table of its own; what stands there are the few functions of this package that make strings,
containers and NumPy arrays. Any other name is an error that names it, and nothing is imported.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from ptychopinn_plugin.errors import ArchiveError
from ptychopinn_plugin.legacy.budget import Budget
from ptychopinn_plugin.legacy.values import (
    GLOBALS,
    Global,
    Record,
    Unbuilt,
    check_keys,
    record_class,
)

MAX_PICKLE_BYTES = 64 << 20
"""Settings take some kilobytes, and a probe of several modes some megabytes."""

MAX_NAME = 200
"""Longer names, and longer parts of messages, are cut or refused."""

MAX_MEMO_KEY = 1 << 32
"""Picklers number what they have stored from 0; hashes of much larger numbers could collide."""

MAX_ARGUMENTS = 256
"""A call takes at most this number of arguments, such as the parts of a path."""

DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Reading a damaged pickle raises one of these."""

PersistentLoad = Callable[[Any], Any]

_MARK = object()

_PUSHED = frozenset(
    [
        'INT',
        'BININT',
        'BININT1',
        'BININT2',
        'LONG',
        'LONG1',
        'LONG4',
        'FLOAT',
        'BINFLOAT',
        'STRING',
        'BINSTRING',
        'SHORT_BINSTRING',
        'UNICODE',
        'BINUNICODE',
        'SHORT_BINUNICODE',
        'BINUNICODE8',
        'BINBYTES',
        'SHORT_BINBYTES',
        'BINBYTES8',
        'BYTEARRAY8',
    ]
)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_EMPTY: dict[str, Callable[[], Any]] = {
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
    'EMPTY_TUPLE': tuple,
}
_SHORT_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_PUTS, _GETS = (
    frozenset(('PUT', 'BINPUT', 'LONG_BINPUT')),
    frozenset(('GET', 'BINGET', 'LONG_BINGET')),
)
_IGNORED = frozenset(('PROTO', 'FRAME'))


def read_pickle(data: bytes, source: str, *, persistent_load: PersistentLoad | None = None) -> Any:
    """Read plain values.

    Parameters
    ----------
    data : bytes
    source : str
        The file and member, for messages.
    persistent_load : callable, optional
        Returns what the pickle refers to as stored elsewhere; torch keeps tensors' numbers so.

    Returns
    -------
    plain values
        None, bool, int, float, complex, str, bytes, tuple, list, dict, set, ndarray; instances of
        known configuration classes as `Record`.

    Raises
    ------
    ArchiveError
        Naming the first global, instruction or value that is not allowed; or if it costs more than
        a `Budget`.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise ArchiveError(
            f'{source}: a pickle of {len(data)} bytes; at most {MAX_PICKLE_BYTES} are read.'
        )
    machine = _Machine(source, persistent_load)
    try:
        return machine.run(data)
    except DAMAGE as error:
        raise ArchiveError(
            f'{source} is damaged, or no pickle of plain values: {str(error)[:MAX_NAME]}.'
        ) from error


def is_known(module: str, name: str) -> bool:
    """Return whether a global is one that `read_pickle` has something for."""
    return len(module) + len(name) <= MAX_NAME and _find(module, name) is not None


def refused_name(source: str, module: str, name: str) -> ArchiveError:
    """Return the error for a global that is not allowed."""
    return ArchiveError(
        f'{source} is refused: it names {f"{module}.{name}"[:MAX_NAME]}, which could run code. '
        'Only plain values, arrays and configuration classes are read, and nothing was run.'
    )


def memo_key(argument: Any) -> int:
    """Return the number under which a value is remembered; large ones could be made to collide.

    Raises
    ------
    ValueError
        If the number is negative or larger than a pickler uses.
    """
    key = int(argument)
    if not 0 <= key < MAX_MEMO_KEY:
        raise ValueError('a memo key that no pickler uses')
    return key


def _find(module: str, name: str) -> Any:
    return GLOBALS.get((module, name)) or record_class(module, name)


class _Machine:
    """A stack and a memo, as Python's own unpickler has them, without its import."""

    def __init__(self, source: str, persistent_load: PersistentLoad | None) -> None:
        self.source = source
        self.persistent_load = persistent_load
        self.budget = Budget(source)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        # This takes instructions apart and follows none of them.
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == 'STOP':
                return self._pop()
            self.budget.step()
            self._step(opcode.name, argument)
        raise ArchiveError(f'{self.source} is truncated: a pickle without an end.')

    def _step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _PUTS:
            self._store(memo_key(argument))
        elif name in _GETS:
            self.stack.append(self.memo[memo_key(argument)])
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _SHORT_TUPLES:
            self.stack.append(tuple(self._take(_SHORT_TUPLES[name])))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _IGNORED:
            raise ArchiveError(f'{self.source} is refused: it uses the pickle instruction {name}.')

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError('a mark where a value is needed')
        return value

    def _take(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _store(self, key: int) -> None:
        value = self.stack[-1]
        if value is _MARK:
            raise ValueError('a mark where a value is needed')
        if isinstance(value, Unbuilt):
            # Once it is built, the memo must hold what it has become.
            value.memo_keys.append(key)
        self.memo[key] = value

    def _look_up(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError('a global whose name is no text')
        if not is_known(module, name):
            raise refused_name(self.source, module, name)
        return _find(module, name)

    # This is what each instruction does; the argument is what the instruction itself carries.

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(' ')
        self.stack.append(self._look_up(module, name))

    def stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        self.stack.append(self._look_up(module, name))

    def refuse_instance(self, argument: Any) -> None:
        # It names a class and calls it, in protocol 0, which nothing of PtychoPINN's uses.
        module, _, name = str(argument).partition(' ')
        self._look_up(module, name)
        raise ArchiveError(f'{self.source} is refused: it uses the pickle instruction INST.')

    def reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        self.stack.append(self._call(function, arguments))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ValueError('a call of something that is no known global')
        # Making it may cost what it takes, so that it is charged before as well.
        self.budget.charge(*_parts(arguments))
        made = function.make(*arguments)
        self.budget.charge(made)
        return made

    def new_object_with_keywords(self, _: Any) -> None:
        function, arguments, keywords = self._take(3)
        if keywords:
            raise ValueError('an object made with keywords')
        self.stack.append(self._call(function, arguments))

    def build(self, _: Any) -> None:
        target, state = self._take(2)
        self.budget.charge(*_parts(state))
        if isinstance(target, Unbuilt):
            keys, target = target.memo_keys, target.build(state)
            self.budget.charge(keys, target)
            self.memo.update(dict.fromkeys(keys, target))
        elif isinstance(target, Record):
            target.build(state)
        elif not isinstance(target, dict) or not isinstance(state, dict):
            raise ValueError(f'a state for a {type(target).__name__}')
        # Other states are attributes of an OrderedDict, as torch's `_metadata`, of no use here.
        self.stack.append(target)

    def persistent(self, argument: Any) -> None:
        identity = self._pop() if argument is None else argument
        if self.persistent_load is None:
            raise ValueError('a reference to something outside the pickle')
        self.stack.append(self.persistent_load(identity))

    def append(self, _: Any) -> None:
        target, item = self._take(2)
        self._extend(target, [item])

    def appends(self, _: Any) -> None:
        items = self._since_mark()
        self._extend(self._pop(), items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, list):
            raise ValueError(f'items for a {type(target).__name__}')
        target.extend(items)
        self.stack.append(target)

    def set_item(self, _: Any) -> None:
        target, key, value = self._take(3)
        self._fill(target, [key, value])

    def set_items(self, _: Any) -> None:
        items = self._since_mark()
        self._fill(self._pop(), items)

    def _fill(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError(f'keys and values for a {type(target).__name__}')
        check_keys(items[::2], len(target))
        target.update(zip(items[::2], items[1::2], strict=True))
        self.stack.append(target)

    def add_items(self, _: Any) -> None:
        items = self._since_mark()
        target = self._pop()
        if not isinstance(target, set):
            raise ValueError(f'members for a {type(target).__name__}')
        check_keys(items, len(target))
        target.update(items)
        self.stack.append(target)

    def make_dict(self, _: Any) -> None:
        self._fill({}, self._since_mark())

    def make_frozenset(self, _: Any) -> None:
        items = self._since_mark()
        check_keys(items)
        self.stack.append(frozenset(items))


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what is in the arguments of a call, or in a state."""
    if not isinstance(value, tuple):
        return (value,)
    if len(value) > MAX_ARGUMENTS:
        raise ValueError(f'a call or state of more than {MAX_ARGUMENTS} values')
    return value


_ACTIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    'MARK': lambda machine, _: machine.stack.append(_MARK),
    'POP': lambda machine, _: machine.stack.__delitem__(-1),
    'POP_MARK': lambda machine, _: machine._since_mark().clear(),
    'DUP': lambda machine, _: machine.stack.append(machine.stack[-1]),
    'MEMOIZE': lambda machine, _: machine._store(len(machine.memo)),
    'TUPLE': lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    'LIST': lambda machine, _: machine.stack.append(machine._since_mark()),
    'FROZENSET': _Machine.make_frozenset,
    'DICT': _Machine.make_dict,
    'APPEND': _Machine.append,
    'APPENDS': _Machine.appends,
    'SETITEM': _Machine.set_item,
    'SETITEMS': _Machine.set_items,
    'ADDITEMS': _Machine.add_items,
    'GLOBAL': _Machine.global_,
    'STACK_GLOBAL': _Machine.stack_global,
    'INST': _Machine.refuse_instance,
    'REDUCE': _Machine.reduce,
    'NEWOBJ': _Machine.reduce,
    'NEWOBJ_EX': _Machine.new_object_with_keywords,
    'BUILD': _Machine.build,
    'PERSID': _Machine.persistent,
    'BINPERSID': _Machine.persistent,
}
