"""What a file holds by its content, whatever its name is, and the reader that belongs to it."""

from pathlib import Path

import h5py

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.data.readers.cxi import read_cxi, read_cxi_product
from ptychopinn_plugin.data.readers.electron_files import is_electron_file, read_electron_file
from ptychopinn_plugin.data.readers.emd import is_emd, read_emd
from ptychopinn_plugin.data.readers.given_arrays import GivenArrays
from ptychopinn_plugin.data.readers.hdf5 import open_hdf5
from ptychopinn_plugin.data.readers.matching import Product
from ptychopinn_plugin.data.readers.matlab import open_matlab, read_matlab
from ptychopinn_plugin.data.readers.matlab_files import is_matlab
from ptychopinn_plugin.data.readers.npy import read_npy
from ptychopinn_plugin.data.readers.npz import read_npz, read_numbers, scan_of
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import read_pair, read_product
from ptychopinn_plugin.data.readers.ptypy_files import (
    is_ptyd,
    is_ptyr,
    read_ptyd,
    read_ptyr_probe,
)
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.errors import DataError

_EXPECTED = (
    'a scan is an NPZ, a MATLAB, a CXI, an EMD file, a .ptyd of PtyPy or a file of an electron '
    'camera, or a folder with diffraction.h5 and product.h5; for another format use reader=NAME '
    '(--reader NAME)'
)


def with_path(error: DataError, path: Path) -> DataError:
    """Return an error that names the file."""
    message = str(error)
    return DataError(message if str(path) in message else f'{path}: {message}')


def check_exists(path: Path) -> None:
    """Check that a file or folder is there, and that a file holds something.

    Raises
    ------
    DataError
        If it is missing, empty or cannot be read.
    """
    if not path.exists():
        raise DataError(f'There is no file {path}. Check the path.')
    if path.is_dir():
        return
    try:
        with path.open('rb') as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(
            f'{path} cannot be read: {error.strerror}. Check its permissions.'
        ) from error
    if empty:
        raise DataError(f'{path} is empty; {_EXPECTED}.')


def _start(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(8)


def _is_npy(path: Path) -> bool:
    return path.is_file() and _start(path).startswith(b'\x93NUMPY')


def content_of(path: Path) -> str:
    """Return the kind of a file, as 'npz'; one that holds no scan is a DataError."""
    start = _start(path)
    # The second is that of an archive without members, which `read_npz` explains.
    if start.startswith((b'PK\x03\x04', b'PK\x05\x06')):
        return 'npz'
    if is_matlab(path):
        return 'matlab'
    if not h5py.is_hdf5(path):
        if is_electron_file(path):
            return 'electron'
        if start.startswith(b'\x93NUMPY'):
            raise DataError(f'{path} is a single NumPy array; {_EXPECTED}. {ADVICE_ALONE}')
        raise DataError(f'{path} is neither NPZ nor HDF5; {_EXPECTED}.')
    with open_hdf5(path) as file:
        if 'entry_1' in file:
            return 'cxi'
        if 'probe_position_x_px' in file:
            raise DataError(
                f"{path} is Ptychodus' training data in HDF5. "
                "Use reader='Ptychodus_Training_Data' (--reader Ptychodus_Training_Data)."
            )
        if 'patterns' in file or 'probe_position_x_m' in file:
            return 'ptychodus'
        if is_emd(file):
            return 'emd'
        if is_ptyd(file):
            return 'ptyd'
        raise DataError(f'{path} is HDF5 and holds {", ".join(file) or "nothing"}; {_EXPECTED}.')


def read_by_content(path: Path, request: ReadingRequest, product: Path | None) -> Scan:
    """Read a scan with the reader of our own that the content of its file belongs to.

    Parameters
    ----------
    path : Path
        A file, or a folder with `diffraction.h5`.
    request : ReadingRequest
    product : Path, optional
        The file of positions and probe, where `path` is of a format that has them elsewhere.

    Raises
    ------
    DataError
        If the file is damaged or no scan, or an option belongs to another kind of file.
    """
    if request.single_shot and product is None and _is_npy(path):
        return scan_of(GivenArrays({'diff3d': read_npy(path)}, str(path)), request)
    content = '' if path.is_dir() else content_of(path)
    of_camera = content == 'electron'
    if request.scan_step_m is not None and (
        not (of_camera or content == 'emd') or product is not None
    ):
        raise DataError(
            'scan_step_m (--scan-step) is the step of a raster of an electron microscope without '
            f'other positions; {path} has its positions from elsewhere. Leave it out.'
        )
    if request.scan_shape is not None and not of_camera:
        raise DataError(
            'scan_shape (--scan-shape) is the shape of a raster in a file of an electron camera; '
            f'{path} is another kind of file. Leave it out.'
        )
    if path.is_dir():
        if not (path / 'diffraction.h5').is_file():
            raise DataError(f'The folder {path} holds no diffraction.h5; {_EXPECTED}.')
        return read_pair(path, request, product)
    if content == 'ptychodus':
        return read_pair(path, request, product)
    if content in ('cxi', 'emd', 'ptyd', 'electron'):
        known = known_product(product)
        if isinstance(known, Path):
            raise DataError(f'product must be a product.h5 or a CXI file; {known} is neither.')
        read = {
            'cxi': read_cxi,
            'emd': read_emd,
            'ptyd': read_ptyd,
            'electron': read_electron_file,
        }[content]
        return read(path, request, known)
    if product is not None:
        name = 'a MATLAB' if content == 'matlab' else 'an NPZ'
        raise DataError(
            f'{path} is {name} scan, which holds its own positions; leave product=FILE '
            '(--product FILE) out. To use the probe of another file use probe_from=FILE.'
        )
    return (read_matlab if content == 'matlab' else read_npz)(path, request)


def known_product(path: Path | None) -> Product | Path | None:
    """Return a product in a format of our own, or the path of another for Ptychodus' readers."""
    if path is None:
        return None
    check_exists(path)
    if path.is_dir() or not h5py.is_hdf5(path):
        return path
    with open_hdf5(path) as file:
        names = set(file)
    if 'entry_1' in names:
        return read_cxi_product(path)
    return read_product(path) if 'probe_position_x_m' in names else path


def read_probe(path: Path) -> ComplexArray:
    """Read the probe of a scan, a product or a reconstruction.

    Parameters
    ----------
    path : Path
        An NPZ or MATLAB file with `probeGuess` or `probe`, a `product.h5`, a CXI or an NPY file,
        or a reconstruction of PtyPy, `.ptyr`.

    Returns
    -------
    ndarray of complex, shape (n_modes, height, width)

    Raises
    ------
    DataError
        If the file holds no probe.
    """
    check_exists(path)
    known = known_product(path)
    if isinstance(known, Product):
        if known.probe is None:
            raise DataError(f'{path} holds no probe. Give another file.')
        return known.probe
    start = b'' if path.is_dir() else _start(path)
    if start.startswith(b'\x93NUMPY'):
        return single_probe(read_numbers({path.name: read_npy(path)}, path.name, 'buifc'))[0]
    of_matlab = is_matlab(path)
    if not of_matlab and not start.startswith(b'PK'):
        if _holds_ptyr(path):
            return read_ptyr_probe(path)
        raise DataError(
            'A probe is read from an NPZ or MATLAB file, a product.h5, a CXI or an NPY file, or a '
            f'.ptyr of PtyPy; not {path}.'
        )
    with (open_matlab if of_matlab else open_npz)(path) as arrays:
        key = 'probe' if 'probe' in arrays else 'probeGuess'
        return single_probe(read_numbers(arrays, key, 'buifc'))[0]


def _holds_ptyr(path: Path) -> bool:
    if path.is_dir() or not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return is_ptyr(file)
