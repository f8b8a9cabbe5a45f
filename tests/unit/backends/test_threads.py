"""The choice of threads: a machine that is played, with a clock that the work moves."""

import pytest
from threadpoolctl import ThreadpoolController

from ptychopinn_plugin.backends.common import threads as module
from ptychopinn_plugin.backends.common.threads import (
    REVIEW_S,
    MeasuredThreads,
    measured_threads,
    one_openblas_thread,
    requested_threads,
)
from ptychopinn_plugin.backends.protocol import Progress


class Machine:
    """Cores of which others may take some: threads that share work wait for a core that is gone."""

    def __init__(self, cores: int) -> None:
        self.cores, self.taken, self.now_s, self.used = cores, 0, 0.0, cores
        self.pieces = 0

    def use(self, number: int) -> None:
        self.used = number

    def work(self) -> None:
        self.pieces += 1
        waits = self.used > self.cores - self.taken
        self.now_s += 0.2 if waits else 0.004 / self.used

    def threads(self) -> MeasuredThreads:
        return MeasuredThreads(self.cores, self.use, self.work, lambda: self.now_s)


@pytest.mark.parametrize(
    ('cores', 'taken', 'wanted'), [(2, 0, 2), (2, 1, 1), (6, 0, 6), (16, 9, 4), (16, 0, 16)]
)
def test_the_most_threads_that_do_not_wait(
    cores: int, taken: int, wanted: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level('INFO', module.__name__)
    machine = Machine(cores)
    machine.taken = taken
    threads = machine.threads()
    for _ in range(3):
        threads.review()
    assert (threads.count, machine.used) == (wanted, wanted)
    (line,) = caplog.messages
    assert line.startswith(f'Computing with {wanted} of {cores} threads')
    assert ('wait for other programs' in line) == (wanted < cores)


def test_a_trial_costs_little_whatever_the_machine_does() -> None:
    machine = Machine(2)
    machine.threads().review()
    quiet_s = machine.now_s
    assert quiet_s < 0.1
    machine.taken = 1
    machine.threads().review()
    # One thread, and then two pieces of work that wait: the first wakes the threads.
    assert machine.now_s - quiet_s < 0.5


def test_threads_are_chosen_again_between_stages_and_now_and_then() -> None:
    machine = Machine(2)
    threads = machine.threads()
    seen: list[Progress] = []
    watch = threads.beside(seen.append)
    watch(Progress('predict', 1, 3))
    before = machine.pieces
    machine.taken = 1
    watch(Progress('predict', 2, 3))
    assert (machine.pieces, threads.count) == (before, 2), 'no trial so soon'
    watch(Progress('refine', 1, 9))
    assert threads.count == 1
    machine.taken = 0
    machine.now_s += REVIEW_S
    watch(Progress('refine', 2, 9))
    assert threads.count == 2
    assert [progress.step for progress in seen] == [1, 2, 1, 2]


def test_numpy_takes_one_thread_between_batches() -> None:
    libraries = ThreadpoolController().select(internal_api='openblas')

    def threads() -> list[int]:
        """Return the number of each library."""
        return [library.num_threads for library in libraries.lib_controllers]

    if not threads():
        pytest.skip('NumPy and SciPy compute without OpenBLAS here.')
    before = threads()
    with one_openblas_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_the_last_of_two_computations_gives_the_threads_back() -> None:
    openblas = ThreadpoolController().select(internal_api='openblas')
    if not openblas.lib_controllers:
        pytest.skip('NumPy and SciPy compute without OpenBLAS here.')

    def threads() -> set[int]:
        return {library.num_threads for library in openblas.lib_controllers}

    with openblas.limit(limits=2):
        first, second = one_openblas_thread(), one_openblas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}, 'the second computation goes on'
        second.__exit__(None, None, None)
        assert threads() == {2}


def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (('3', 3), ('4,2', 4), ('', None), ('many', None), ('0', None)):
        monkeypatch.setenv(module.VARIABLE, text)
        assert requested_threads(None) == wanted
        assert requested_threads(7) == 7
    machine = Machine(4)
    with measured_threads(4, machine.use, machine.work, requested=3) as threads:
        assert (threads.count, machine.used, machine.pieces) == (3, 3, 0)
    assert machine.used == 4, 'the number is left as it was'
