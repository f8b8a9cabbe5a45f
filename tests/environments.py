"""Run each test once where two environments run the same tests, one of them without a framework.

The run in the smaller environment writes down, with ``--record-passed=FILE``, which tests passed
and what each of them looked for in vain. The run in the larger environment leaves out, with
``--leave-out-passed=FILE``, the tests that would do the same there. A test is run again where

- it did not pass, was skipped, or is not in the file;
- it, its module or a fixture looked for a module or a package that only the larger environment has;
- it looked up which packages are installed, or started another process, which may look for
  anything.

So nobody has to mark a test. What this cannot see is a lookup whose answer a cache of the code
under test keeps for later tests; such a cache must not hold whether a framework is there.
"""

import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from types import ModuleType

import pytest

ANYTHING = '*'
"""This stands for what cannot be followed: another process, the list of installed packages."""

PROCESS_EVENTS = {'subprocess.Popen', 'os.fork', 'os.posix_spawn', 'os.exec', 'os.system'}


class Lookups(DistributionFinder):
    """The first of Python's finders: finds nothing, and knows for whom what was looked for."""

    def __init__(self) -> None:
        self.of: defaultdict[str, set[str]] = defaultdict(set)
        self.current = ''

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Note the top-level package of a module."""
        self.of[self.current].add(fullname.partition('.')[0])
        return None

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterable[Distribution]:
        """Note that installed packages were looked up."""
        self.of[self.current].add(ANYTHING)
        return ()

    def note_event(self, event: str, _: object) -> None:
        """Note that another process was started."""
        if event in PROCESS_EVENTS:
            self.of[self.current].add(ANYTHING)


class Recorder:
    """Writes which tests passed, each with what it looked for and did not find."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lookups = Lookups()
        self.passed: dict[str, bool] = {}
        sys.meta_path.insert(0, self.lookups)
        sys.addaudithook(self.lookups.note_event)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, object]:
        """Put down what is looked for while a file is collected to the file."""
        self.lookups.current = collector.nodeid
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Put down what a test looks for to the test."""
        self.lookups.current = item.nodeid
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Put down what a fixture that several tests share looks for to all in its scope."""
        before = self.lookups.current
        if fixturedef.scope != 'function':
            self.lookups.current = before.partition('::')[0]
        try:
            return (yield)
        finally:
            self.lookups.current = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed where its set-up, call and tear-down have."""
        passed = report.passed and not hasattr(report, 'wasxfail')
        self.passed[report.nodeid] = self.passed.get(report.nodeid, True) and passed

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        missing = {
            name: sorted(found for found in names if not is_there(found))
            for name, names in list(self.lookups.of.items())
        }
        record = {
            name: missing.get(name, []) + missing.get(name.partition('::')[0], [])
            for name, passed in self.passed.items()
            if passed
        }
        self.path.write_text(json.dumps(record, indent=1), encoding='utf-8')


def is_there(module: str) -> bool:
    """Return whether a top-level module can be imported here; `ANYTHING` cannot."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return module != ANYTHING and importlib.util.find_spec(module) is not None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup('environments')
    group.addoption('--record-passed', type=Path, help='write which tests passed, for another run')
    group.addoption('--leave-out-passed', type=Path, help='what --record-passed wrote elsewhere')


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write down."""
    path: Path | None = config.getoption('--record-passed')
    if path is not None:
        config.pluginmanager.register(Recorder(path), 'environments-recorder')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what passed elsewhere and would do the same here."""
    path: Path | None = config.getoption('--leave-out-passed')
    if path is None:
        return
    record: dict[str, list[str]] = json.loads(path.read_text(encoding='utf-8'))
    done = {
        name
        for name, missing in record.items()
        if ANYTHING not in missing and not any(is_there(module) for module in missing)
    }
    left_out = [item for item in items if item.nodeid in done]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.nodeid not in done]
