"""Which rank a process is, and what ranks refuse, without a framework."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends.common.memory import with_smaller_batches
from ptychopinn_plugin.backends.common.rank_watch import RankWatch
from ptychopinn_plugin.backends.common.ranks import (
    Launch,
    Ranks,
    SeveralRanks,
    current_ranks,
    own_part,
    using_ranks,
)
from ptychopinn_plugin.backends.selection import Choice, create_backend, find_joining
from ptychopinn_plugin.cli.outputs import staged_outputs
from ptychopinn_plugin.cli.ranks import refuse_several_processes, several_processes
from ptychopinn_plugin.config import RefinementConfig
from ptychopinn_plugin.data.simulation import SimulationConfig, simulate
from ptychopinn_plugin.errors import ConfigError

MEETING = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500'}
SECOND_OF_TWO = {
    **MEETING,
    'RANK': '1',
    'WORLD_SIZE': '2',
    'LOCAL_RANK': '1',
    'LOCAL_WORLD_SIZE': '2',
}


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def watch() -> Iterator[RankWatch]:
    number = signal.SIGUSR2
    former = signal.getsignal(number)
    yield RankWatch(0, 2, lambda: 'Start again.')
    signal.signal(number, former)


def test_a_launcher_names_the_rank() -> None:
    assert Launch.of_environment(SECOND_OF_TWO) == Launch(1, 2, 1, 2)


@pytest.mark.parametrize('missing', ['RANK', 'MASTER_ADDR', 'MASTER_PORT'])
def test_single_variables_are_no_launcher(missing: str) -> None:
    variables = {name: value for name, value in SECOND_OF_TWO.items() if name != missing}
    assert Launch.of_environment(variables) == Launch()


@pytest.mark.parametrize('wrong', [{'RANK': '2'}, {'WORLD_SIZE': 'two'}, {'LOCAL_RANK': ''}])
def test_variables_that_contradict_each_other(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r'RANK below WORLD_SIZE.*torchrun or --devices'):
        Launch.of_environment({**SECOND_OF_TWO, **wrong})


@pytest.mark.parametrize('count', [0, 1, 5, 64])
@pytest.mark.parametrize('size', [1, 2, 4, 7])
def test_the_ranks_share_everything_once(count: int, size: int) -> None:
    everything = np.arange(count)
    shares = [SeveralRanks(rank, size).share(count) for rank in range(size)]
    parts = [own_part(everything, share) for share in shares]
    assert np.concatenate(parts).tolist() == everything.tolist()
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    # Rank 0 has something wherever there is anything: it synchronizes phases for all.
    assert lengths[0] == max(lengths)


def test_one_process_is_left_as_it_is() -> None:
    ranks, clock, array = Ranks(), lambda: 3.0, np.ones(3)
    assert ranks.shared_clock(clock) is clock
    assert ranks.sum(array) is array
    assert ranks.gather(array) is array
    assert ranks.share(5) == slice(0, 5)


def test_ranks_are_used_in_their_block() -> None:
    several = SeveralRanks(0, 2)
    with using_ranks(several):
        assert current_ranks() is several
    assert current_ranks().size == 1


def test_full_memory_does_not_let_a_rank_go_its_own_way() -> None:
    def exceed(batch_size: int) -> None:
        tried.append(batch_size)
        raise MemoryError

    tried: list[int] = []
    with using_ranks(SeveralRanks(0, 2)), pytest.raises(MemoryError):
        with_smaller_batches(exceed, 8, lambda: None, 'the test')
    assert tried == [8]


@pytest.mark.usefixtures('second_of_two')
def test_only_rank_0_writes(tmp_path: Path) -> None:
    folder = tmp_path / 'result'
    with staged_outputs(folder, ['a.txt']) as stage:
        (stage / 'a.txt').write_text('of rank 1')
        assert not folder.exists()
    assert not folder.exists()
    assert not stage.exists()


@pytest.mark.usefixtures('second_of_two')
def test_other_commands_are_one_process() -> None:
    refuse_several_processes('train')
    with pytest.raises(ConfigError, match=r'`check` computes in one process; .* has started 2'):
        refuse_several_processes('check')


@pytest.mark.usefixtures('second_of_two')
def test_the_number_of_the_launcher_counts() -> None:
    with pytest.raises(ConfigError, match='--devices 3 was given to 2 processes'):
        several_processes(3).__enter__()


def test_tensorflow_computes_in_one_process() -> None:
    with pytest.raises(ConfigError, match=r'only with: pytorch\. The backend is tensorflow'):
        find_joining(Choice('tensorflow', 'argument'))


def test_only_who_has_the_token_is_a_rank(watch: RankWatch) -> None:
    port = watch.open_port('127.0.0.1', 'token')
    with socket.create_connection(('127.0.0.1', port), timeout=10) as stranger:
        stranger.sendall(b'guess 1 1 here\n')
        assert stranger.recv(1) == b''
    with socket.create_connection(('127.0.0.1', port), timeout=10) as other:
        other.sendall(b'token 1 1 here\n')
        watch.wait_for_all()
        other.sendall(b'done\n')
    assert watch.wait_for_failure(0.3) is None


def test_eigenmodes_are_refined_in_one_process() -> None:
    pytest.importorskip('torch')
    scan = simulate(SimulationConfig(size=16, rows=3, columns=3, step_px=3.0, pupil_radius=0.2))
    with using_ranks(SeveralRanks(0, 2)):
        backend = create_backend('pytorch')
    with pytest.raises(ConfigError, match=r'in one process; this run has 2\. Leave --opr-modes'):
        backend.refine(scan, RefinementConfig(opr_modes=1))
