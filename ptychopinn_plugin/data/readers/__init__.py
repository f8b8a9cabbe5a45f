"""Reading a scan, whatever file it is in."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin.array_types import ComplexArray, RealArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.preparation import one_by_one, scale_to_photons, with_frame_margin
from ptychopinn_plugin.data.readers.cxi import read_cxi, read_cxi_product
from ptychopinn_plugin.data.readers.domain import Domain, check_domain, unit_note
from ptychopinn_plugin.data.readers.electron_files import is_electron_file, read_electron_file
from ptychopinn_plugin.data.readers.emd import is_emd, read_emd
from ptychopinn_plugin.data.readers.finishing import (
    bright_pixel_notes,
    with_hot_pixels_marked,
    with_probe_modes,
    with_probe_of_patterns,
    without_useless_object,
)
from ptychopinn_plugin.data.readers.frame_centre import centre_note
from ptychopinn_plugin.data.readers.hdf5 import open_hdf5
from ptychopinn_plugin.data.readers.limits import Limits, reading_with, size_in_words
from ptychopinn_plugin.data.readers.mask_files import read_mask
from ptychopinn_plugin.data.readers.matching import Product
from ptychopinn_plugin.data.readers.matlab import open_matlab, read_matlab
from ptychopinn_plugin.data.readers.matlab_files import is_matlab
from ptychopinn_plugin.data.readers.npy import read_npy
from ptychopinn_plugin.data.readers.npz import (
    read_npz,
    read_numbers,
    scan_of,
)
from ptychopinn_plugin.data.readers.npz_archive import open_npz
from ptychopinn_plugin.data.readers.probe_axes import single_probe
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import (
    is_product_file,
    read_pair,
    read_product,
)
from ptychopinn_plugin.data.readers.ptychodus_plugins import read_with_ptychodus, reader_names
from ptychopinn_plugin.data.readers.ptypy_files import (
    is_ptyd,
    is_ptyr,
    read_ptyd,
    read_ptyr_probe,
)
from ptychopinn_plugin.data.readers.request import ADVICE_ALONE, ReadingRequest, load_name
from ptychopinn_plugin.data.reorientation import reorient
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.data.starting_probe import made_probe
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import Orientation
from ptychopinn_plugin.storage.scratch import is_stored, scratch_folder

__all__ = [
    'Domain',
    'is_product_file',
    'load_scan',
    'read_probe',
    'read_product',
    'reader_names',
    'scan_from_arrays',
]

_EXPECTED = (
    'a scan is an NPZ, a MATLAB, a CXI, an EMD file, a .ptyd of PtyPy or a file of an electron '
    'camera, or a folder with diffraction.h5 and product.h5; for another format use reader=NAME '
    '(--reader NAME)'
)


def load_scan(
    path: Path | str,
    *,
    domain: Domain | None = None,
    reader: str | None = None,
    product: Path | str | None = None,
    positions: Path | str | None = None,
    positions_reader: str | None = None,
    probe_from: Path | str | None = None,
    probe_from_patterns: bool = False,
    geometry: Geometry | None = None,
    beam_center_px: tuple[int, int] | None = None,
    mask_hot: bool = False,
    mask: Path | str | None = None,
    photons: float | None = None,
    single_shot: bool = False,
    frame_margin_px: int | None = None,
    probe_modes: int | None = None,
    scan_step_m: float | None = None,
    scan_shape: tuple[int, int] | None = None,
    allow_links: bool = False,
    max_gib: float | None = None,
    max_memory_gib: float | None = None,
    orientation: Orientation | None = None,
) -> Scan:
    """Read a scan. The content of the file decides what it is, not its name.

    Parameters
    ----------
    path : Path
        An NPZ, MATLAB, CXI or EMD file, a `.ptyd` of PtyPy, Ptychodus' `diffraction.h5` or the
        folder that holds it; of electron cameras also `.xml`, `.raw`, `.mib`, `.dm4`, `.blo` and
        `.tvips`, which are recognized by their suffix.
    domain : 'counts' or 'amplitudes', optional
        What the patterns hold. Where not given, the file decides, or it is inferred (see
        `readers.domain.infer_domain`) and noted in the scan's notes.
    reader : str, optional
        Read with this file reader of an installed Ptychodus; `reader_names` lists them.
    product : Path, optional
        A `product.h5` (or what `reader` reads as a product) with positions, probe and object.
    positions : Path, optional
        With `reader`: a file of positions; taken in place of those of `product`.
    positions_reader : str, optional
        With `positions`: Ptychodus' reader of it, where several could read it.
    probe_from : Path, optional
        A scan, product, reconstruction or NPY file whose probe is used.
    probe_from_patterns : bool
        Leave out the probe of the file, and make one of the patterns as where a file holds none.
    geometry : Geometry, optional
        Photon energy, distance and detector pixel where the files lack them or are wrong, and
        whether the detector is in the near field. Where all are known, the size of an object pixel
        follows from them.
    beam_center_px : (int, int), optional
        (row, column) of the frames where the beam meets the detector, if not in their middle.
    mask_hot : bool
        Mark pixels as bad that are bright in most patterns and far above their neighbours.
    mask : Path, optional
        A file of bad pixels, of the frames' size: see `mask_files.read_mask`.
    photons : float, optional
        Mean number of photons in a pattern: for patterns in another unit, which are scaled to it.
    single_shot : bool
        Reconstruct each pattern alone; see `one_by_one`. The file then needs no positions, and may
        be an NPY file of one pattern or of a stack of them.
    frame_margin_px : int, optional
        Pad images of the near field by this number of pixels on each side; see
        `with_frame_margin`.
    probe_modes : int, optional
        How many modes the probe is to have: added ones are for the iterations to correct; see
        `physics.with_modes`.
    scan_step_m : float, optional
        The step of the raster of an electron microscope, in both directions, in place of the
        file's.
    scan_shape : (int, int), optional
        (rows, columns) of the raster in a file of an electron camera, in place of the file's.
    allow_links : bool
        Follow links and virtual datasets of HDF5 out of the folder of the file that holds them.
    max_gib : float, optional
        How large an array of a file may be; see `limits`.
    max_memory_gib : float, optional
        What patterns, and the roots that backends make of them, may take in memory. Larger ones lie
        in a file in the folder for temporary files, and are read from there batch by batch.
    orientation : Orientation, optional
        How patterns and positions are turned, after the beam was brought to the middle: see
        `reorientation.reorient`. `mask` and `beam_center_px` are of the frames as stored.

    Returns
    -------
    Scan
        Patterns as counts. `notes` lists what was assumed, changed or left out.

    Raises
    ------
    DataError
        If a file is missing, damaged or not a scan; the message holds what to do.
    """
    path = Path(path)
    check_domain(domain)
    check_exists(path)
    _refuse_two_probes(probe_from, probe_from_patterns)
    if reader is None:
        _refuse_without_reader(positions=positions, positions_reader=positions_reader)
    product = None if product is None else Path(product)
    positions = None if positions is None else Path(positions)
    with reading_with(Limits(allow_links, _bytes_of(max_gib), _bytes_of(max_memory_gib))) as limits:
        request = ReadingRequest(
            load_name(path),
            domain,
            probe=None if probe_from is None else read_probe(Path(probe_from)),
            geometry=geometry,
            beam_center_px=beam_center_px,
            mask=None if mask is None else read_mask(Path(mask)),
            scan_step_m=scan_step_m,
            scan_shape=scan_shape,
            single_shot=single_shot,
        )
        try:
            if reader is None:
                scan = _read_by_content(path, request, product)
            else:
                scan = read_with_ptychodus(
                    path,
                    request,
                    reader,
                    product=_known_product(product),
                    positions=positions,
                    positions_reader=positions_reader,
                )
        except DataError as error:
            raise with_path(error, path) from error
    scan = _with_notes_of_reading(scan, limits)
    if probe_from_patterns:
        scan = with_probe_of_patterns(scan)
    scan = _oriented(scan, orientation, beam_center_px, mask_hot=mask_hot)
    scan = without_useless_object(scan)
    if frame_margin_px is not None:
        scan = with_frame_margin(scan, frame_margin_px)
    if probe_modes is not None and probe_modes != len(scan.probe):
        scan = with_probe_modes(scan, probe_modes)
    if single_shot:
        scan = one_by_one(scan)
    return _with_unit_note(scan) if photons is None else scale_to_photons(scan, photons)


def _with_notes_of_reading(scan: Scan, limits: Limits) -> Scan:
    stored = (_storage_note(scan),) if is_stored(scan.patterns) else ()
    more = (*stored, *limits.notes())
    return dataclasses.replace(scan, notes=(*scan.notes, *more)) if more else scan


def _refuse_two_probes(probe_from: Path | str | None, probe_from_patterns: bool) -> None:
    if probe_from_patterns and probe_from is not None:
        raise DataError(
            'probe_from (--probe-from) names a probe, and probe_from_patterns '
            '(--probe-from-patterns) makes one; got both. Leave one of them out.'
        )


def _refuse_without_reader(**options: Path | str | None) -> None:
    for name, given in options.items():
        if given is not None:
            raise DataError(f'{name} needs reader=NAME (--reader NAME), to whose files it belongs.')


def _bytes_of(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _oriented(
    scan: Scan,
    orientation: Orientation | None,
    beam_center_px: tuple[int, int] | None,
    *,
    mask_hot: bool,
) -> Scan:
    """Mark hot pixels, note where the beam is, and change axes: `load_scan` has the arguments."""
    if mask_hot:
        scan = with_hot_pixels_marked(scan)
    scan = dataclasses.replace(scan, notes=(*scan.notes, *bright_pixel_notes(scan)))
    if beam_center_px is None and not scan.geometry.is_near_field:
        assert scan.bad_pixels is not None
        # The note is in pixels of the frames as stored, in which users give the centre.
        more = centre_note(scan.patterns, scan.bad_pixels, scan.probe)
        scan = dataclasses.replace(scan, notes=(*scan.notes, *more))
    if orientation is not None:
        scan = reorient(scan, orientation, is_centred=beam_center_px is not None)
    if scan.probe_origin == 'patterns' and (mask_hot or orientation is not None):
        # It was made of the patterns as they were.
        probe, _ = made_probe(scan.patterns, scan.bad_pixels, scan.geometry)
        scan = dataclasses.replace(scan, probe=probe)
    return scan


def _with_unit_note(scan: Scan) -> Scan:
    """Add what some of the patterns show of their unit."""
    assert scan.bad_pixels is not None  # `replace` drops it
    some = scan.patterns[:: max(1, len(scan) // 32)][:, ~scan.bad_pixels]
    return dataclasses.replace(scan, notes=(*scan.notes, *unit_note(some)))


def _storage_note(scan: Scan) -> str:
    return (
        f'The patterns take {size_in_words(scan.patterns.nbytes)}, and their roots as much or '
        f'more: they lie in a temporary file in {scratch_folder()} and are read from there.'
    )


def scan_from_arrays(
    arrays: Mapping[str, RealArray], *, name: str = 'scan', domain: Domain | None = None
) -> Scan:
    """Make a scan of arrays under the names that an NPZ file has, and of the same layouts.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        `diff3d` (or `diffraction`), `xcoords`, `ycoords`, `probeGuess` and what else a file may
        hold. None of them is changed.
    name : str
        For messages and plots.
    domain : 'counts' or 'amplitudes', optional
        As in `load_scan`.

    Raises
    ------
    DataError
        If an array is missing or is not what it must be.
    """
    check_domain(domain)
    return without_useless_object(scan_of(_Given(arrays, name), ReadingRequest(name, domain)))


class _Given(Mapping[str, RealArray]):
    """Arrays in memory, read-only, so that reading cannot change what belongs to others."""

    def __init__(self, arrays: Mapping[str, RealArray], name: str) -> None:
        self._arrays, self._name = arrays, name

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, key: str) -> RealArray:
        if key not in self._arrays:
            raise DataError(
                f'{self._name} must hold {key!r}; it holds {", ".join(self) or "nothing"}.'
            )
        array = np.asarray(self._arrays[key]).view()
        array.flags.writeable = False
        return array


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


def _read_by_content(path: Path, request: ReadingRequest, product: Path | None) -> Scan:
    if request.single_shot and product is None and _is_npy(path):
        return scan_of(_Given({'diff3d': read_npy(path)}, str(path)), request)
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
        known = _known_product(product)
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


def _known_product(path: Path | None) -> Product | Path | None:
    """Read a product in a format of our own; leave the rest to Ptychodus' readers."""
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
    known = _known_product(path)
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
