"""Reading a scan, whatever file it is in."""

import dataclasses
from pathlib import Path

from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.preparation import one_by_one, scale_to_photons, with_frame_margin
from ptychopinn_plugin.data.readers.content import (
    check_exists,
    known_product,
    read_by_content,
    read_probe,
    with_path,
)
from ptychopinn_plugin.data.readers.domain import Domain, check_domain, unit_note
from ptychopinn_plugin.data.readers.finishing import (
    bright_pixel_notes,
    with_hot_pixels_marked,
    with_probe_modes,
    with_probe_of_patterns,
    without_useless_object,
)
from ptychopinn_plugin.data.readers.frame_centre import centre_note
from ptychopinn_plugin.data.readers.given_arrays import scan_from_arrays
from ptychopinn_plugin.data.readers.limits import Limits, reading_with, size_in_words
from ptychopinn_plugin.data.readers.mask_files import read_mask
from ptychopinn_plugin.data.readers.ptychodus_hdf5 import (
    is_product_file,
    read_product,
)
from ptychopinn_plugin.data.readers.ptychodus_plugins import read_with_ptychodus, reader_names
from ptychopinn_plugin.data.readers.request import ReadingRequest, load_name
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
    refuse_two_probes(probe_from, probe_from_patterns)
    if reader is None:
        _refuse_without_reader(positions=positions, positions_reader=positions_reader)
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
        product = None if product is None else Path(product)
        try:
            if reader is None:
                scan = read_by_content(path, request, product)
            else:
                scan = read_with_ptychodus(
                    path,
                    request,
                    reader,
                    product=known_product(product),
                    positions=None if positions is None else Path(positions),
                    positions_reader=positions_reader,
                )
        except DataError as error:
            raise with_path(error, path) from error
    scan = _with_notes_of_reading(scan, limits)
    if probe_from_patterns:
        scan = with_probe_of_patterns(scan)
    # Hot pixels and the beam are looked for in the frames as stored, whose pixels a user counts,
    # and axes are changed after that; a margin and more modes need the final axes.
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


def refuse_two_probes(probe_from: Path | str | None, probe_from_patterns: bool) -> None:
    """Raise a DataError where a probe is both named and to be made."""
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
