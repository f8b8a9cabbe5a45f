"""Whatever a file holds, it opens, or an error of this package names what is wrong with it."""

import io
import json
import subprocess
import sys
import tomllib
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import damage
import h5py
import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

import ptychopinn_plugin as pinn
from ptychopinn_plugin import schemas
from ptychopinn_plugin.cli.settings import parse_assignment
from ptychopinn_plugin.config import Config
from ptychopinn_plugin.data import read_probe, read_reconstruction, scan_from_arrays
from ptychopinn_plugin.data.readers.mask_files import read_mask
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import read_measurement
from ptychopinn_plugin.data.summary import describe_scan
from ptychopinn_plugin.errors import ArchiveError, ConfigError, DataError, PtychoPinnError
from ptychopinn_plugin.legacy.pickles import read_pickle
from ptychopinn_plugin.model_file import read_model

STATE = schemas.state_schema()

BRIEF = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Examples are the same each time, so that a test that passes here passes elsewhere."""

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
ARRAYS = numpy_st.arrays(
    st.one_of(
        numpy_st.integer_dtypes(),
        numpy_st.floating_dtypes(),
        numpy_st.complex_number_dtypes(),
        numpy_st.boolean_dtypes(),
        numpy_st.byte_string_dtypes(max_len=3),
    ),
    numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=10),
)


@pytest.fixture(scope='module')
def arrays() -> dict[str, np.ndarray]:
    """Return a scan of twelve patterns as an NPZ file holds it."""
    settings = pinn.SimulationConfig(size=16, rows=3, columns=4, step_px=3.0, pupil_radius=0.2)
    scan = pinn.simulate(settings)
    return {
        'diff3d': np.asarray(scan.patterns),
        'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0],
        'probeGuess': scan.probe,
    }


@BRIEF
@given(st.dictionaries(st.sampled_from(['model', 'training', 'inference', 'x']), PLAIN), PLAIN)
def test_any_settings(sections: dict[str, Any], other: Any) -> None:
    names = {'epochs': other, 'learning_rate': other, 'gridsize': other, 'n_groups': other}
    for values in (sections, {'training': names}, other):
        with suppress(ConfigError):
            config = Config.from_dict(values)
            assert Config.from_dict(config.to_dict()) == config


@BRIEF
@given(st.integers(0, 2**32 - 1))
def test_any_change_of_a_manifest_of_settings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = damage.damage_value(Config().to_dict(), rng)
    try:
        schemas.validate(values, schemas.config_schema(), 'settings', ConfigError)
        fits = True
    except ConfigError:
        fits = False
    # What the published schema refuses is refused by the class that reads settings.
    with suppress(ConfigError):
        Config.from_dict(values)
        assert fits


@BRIEF
@given(st.text(max_size=30), st.sampled_from(['training.epochs', 'inference.passes', 'a.b', '']))
def test_any_assignment(text: str, name: str) -> None:
    with suppress(ConfigError):
        section, field, _ = parse_assignment(f'{name}={text}')
        assert f'{section}.{field}' == name


@BRIEF
@given(st.sampled_from(['diff3d', 'xcoords', 'probeGuess', 'objectGuess', 'bad_pixels']), ARRAYS)
def test_any_array_in_a_scan(arrays: dict[str, np.ndarray], name: str, array: np.ndarray) -> None:
    with suppress(DataError):
        scan = scan_from_arrays({**arrays, name: array})
        json.dumps(describe_scan(scan), allow_nan=False)


@BRIEF
@given(st.binary(max_size=200))
def test_any_bytes_of_a_pickle(data: bytes) -> None:
    with suppress(ArchiveError):
        read_pickle(b'\x80\x04' + data, 'a pickle')


@BRIEF
@given(
    st.binary(max_size=300),
    st.sampled_from([b'', b'PK\x03\x04', b'\x89HDF\r\n\x1a\n', b'\x93NUMPY\x01\0']),
)
def test_any_bytes_of_a_file(tmp_path: Path, data: bytes, start: bytes) -> None:
    path = tmp_path / 'file'
    path.write_bytes(start + data)
    for read in (pinn.load_scan, read_reconstruction, read_mask, read_probe, read_model):
        with pytest.raises(PtychoPinnError, match='file'):
            read(path)


def test_headers_that_are_no_python(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    """NumPy takes them apart with Python's tokenizer, whose errors are no ValueError."""
    np.savez(tmp_path / 'scan.npz', **arrays)
    data = (tmp_path / 'scan.npz').read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, arrays['diff3d'])
    header = buffer.getvalue()
    broken = header.replace(b'), }', b'   }', 1)
    assert broken != header
    (tmp_path / 'broken.npy').write_bytes(broken)
    for read in (read_probe, read_mask):
        with pytest.raises(DataError, match='is damaged'):
            read(tmp_path / 'broken.npy')
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(tmp_path / 's.npz', 'w') as new:
        for name in old.namelist():
            new.writestr(name, broken if name == 'diff3d.npy' else old.read(name))
    with pytest.raises(DataError, match=r"'diff3d' of .* damaged"):
        pinn.load_scan(tmp_path / 's.npz')


def test_an_npy_file_that_claims_too_much(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    data = buffer.getvalue().replace(b'(4, 4), }  ', b'(4, 444), }', 1)
    (tmp_path / 'mask.npy').write_bytes(data)
    with pytest.raises(DataError, match=r'claims the shape \(4, 444\)'):
        read_mask(tmp_path / 'mask.npy')


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('indexes', np.array([b'a'] * 12), r'/indexes .* must hold real numbers; it holds \|S1'),
        ('indexes', h5py.Empty('f4'), '/indexes .* must hold real numbers; it holds nothing'),
        ('bad_pixels', np.zeros((16, 16), [('a', 'f4')]), '/bad_pixels .* must hold real numbers'),
        ('patterns', np.ones((12, 16, 16), complex), '/patterns .* must hold real numbers'),
    ],
)
def test_datasets_that_are_no_numbers(
    tmp_path: Path, arrays: dict[str, np.ndarray], key: str, value: Any, message: str
) -> None:
    values = {'patterns': arrays['diff3d'], 'indexes': np.arange(12), key: value}
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        for name, array in values.items():
            file[name] = array
    with pytest.raises(DataError, match=message):
        read_measurement(tmp_path / 'diffraction.h5', domain=None)


def test_chunks_that_would_take_minutes(tmp_path: Path) -> None:
    """HDF5 needs half a minute for these 40 MB, of which the file holds nothing."""
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file.create_dataset('patterns', (10_000, 32, 32), 'f4', chunks=(8, 1, 8))
    with pytest.raises(DataError, match=r'is stored in 160000 chunks of 256 bytes.*h5repack'):
        read_measurement(tmp_path / 'diffraction.h5', domain=None)


def test_whole_numbers_that_are_no_floats() -> None:
    with pytest.raises(ArchiveError, match='must be a finite number'):
        schemas.validate({'epoch': 1, 'history': [], 'first_scale': 10**400}, STATE, 'state')


def test_counts_in_half_precision(arrays: dict[str, np.ndarray]) -> None:
    """It has no number as large as the marks that programs write, which is no reason to warn."""
    counts = np.minimum(arrays['diff3d'], 1000).astype(np.float16)
    scan = scan_from_arrays({**arrays, 'diff3d': counts}, domain='counts')
    np.testing.assert_array_equal(scan.patterns, counts)


def test_nested_settings(tmp_path: Path) -> None:
    (tmp_path / 'deep.toml').write_text(f'a = {"[" * 5000}{"]" * 5000}')
    with pytest.raises(ConfigError, match='is not a readable TOML file'):
        Config.from_toml(tmp_path / 'deep.toml')


def test_damage_is_the_same_for_a_seed_and_changes_files() -> None:
    """What the program below relies on."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(12.0), b=np.ones((3, 4)))
    toml = tomli_w.dumps(Config().to_dict()).encode()
    for data in (buffer.getvalue(), toml, b'{"a": [1, 2]}'):
        damaged = [damage.damage_content(data, np.random.default_rng(n)) for n in range(20)]
        again = [damage.damage_content(data, np.random.default_rng(n)) for n in range(20)]
        assert len({*damaged}) > 12
        if not data.startswith(b'PK'):
            # A zip has the time in it.
            assert damaged == again
    assert tomllib.loads(toml.decode())


def test_a_few_hundred_damaged_files_of_all_formats() -> None:
    pytest.importorskip('torch')
    program = Path(__file__).parents[2] / 'benchmarks' / 'fuzz.py'
    done = subprocess.run(
        [sys.executable, str(program), '--times', '20'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(' | 20 | ') == 38
