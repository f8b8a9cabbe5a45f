"""Ptychodus' products and ours: (x, y) in metres there, (y, x) in pixels here."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import LossValue, Product
from ptychodus.api.reconstruct import ReconstructInput

from ptychopinn_plugin import ptychodus_compat
from ptychopinn_plugin.array_types import ComplexArray, FloatArray
from ptychopinn_plugin.data import Scan, scale_to_photons
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.preparation import one_by_one
from ptychopinn_plugin.data.probe_variation import ProbeVariation, coherent_modes
from ptychopinn_plugin.data.readers import matching
from ptychopinn_plugin.data.readers.finishing import with_probe_of_patterns
from ptychopinn_plugin.data.readers.probe_axes import varying_probe
from ptychopinn_plugin.data.readers.request import ReadingRequest
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.host import versions
from ptychopinn_plugin.host.settings import HostOptions


def as_chosen(scan: Scan, options: HostOptions) -> Scan:
    """Return a scan as the rows *Single shot* and *Photons* of the panel make it."""
    if options.single_shot:
        scan = one_by_one(scan)
    return scan if options.photons is None else scale_to_photons(scan, options.photons)


def to_scan(parameters: ReconstructInput, *, probe_from_patterns: bool = False) -> Scan:
    """Make a scan of what Ptychodus hands to a reconstructor.

    Parameters
    ----------
    parameters : ReconstructInput
        Pattern i was taken at position i.
    probe_from_patterns : bool
        Make the probe of the patterns, whether the product holds one or not.

    Raises
    ------
    DataError
        If it cannot be reconstructed: no probe, unknown pixel sizes, negative counts ...
    """
    product = parameters.product
    probe = product.probes.get_array()
    pixel = _pixel_geometry(product)
    # A tiny or empty object is what a new product holds.
    layers = product.object_.get_array()
    has_object = layers.size > 0 and versions.has_centre(product.object_)
    object_, object_notes = matching.single_layer(layers) if has_object else (None, ())
    modes, variation, probe_notes = (
        varying_probe(
            probe, ptychodus_compat.opr_weights(product.probes), len(product.probe_positions)
        )
        if probe.size
        else (None, None, ())
    )
    order = np.arange(len(product.probe_positions))
    known = matching.Product(
        indexes=order,
        positions_m=ptychodus_compat.positions_m(product.probe_positions),
        probe=modes,
        probe_variation=variation,
        object_=object_,
        centre_m=versions.centre_m(product.object_) if has_object else None,
        geometry=Geometry(
            pixel_height_m=pixel.height_m or None,
            pixel_width_m=pixel.width_m or None,
            photon_energy_eV=ptychodus_compat.photon_energy_eV(product.metadata) or None,
            detector_distance_m=product.metadata.detector_distance_m or None,
            near_field=ptychodus_compat.is_near_field(product.metadata) or None,
            focus_object_distance_m=ptychodus_compat.focus_distance_m(product.metadata),
        ),
        notes=(*probe_notes, *object_notes),
        name=product.metadata.name,
    )
    if modes is None and not probe_from_patterns:
        # A product without one is not finished; Ptychodus has builders for it.
        raise DataError(
            f'The product {product.metadata.name!r} holds no probe, and one is needed. Give it one '
            'in Ptychodus, under Probe, or make one of the patterns: --probe-from-patterns.'
        )
    # These are Ptychodus' own, which must stay as they are.
    patterns = np.asarray(parameters.diffraction_patterns).view()
    patterns.flags.writeable = False
    measured = matching.measurement_of(patterns, order, _mask(parameters))
    scan = matching.join(measured, known, ReadingRequest(product.metadata.name))
    if probe_from_patterns:
        scan = with_probe_of_patterns(scan)
    indexes = ptychodus_compat.position_indexes(product.probe_positions)
    return replace(scan, pattern_indexes=indexes)


def _pixel_geometry(product: Product) -> PixelGeometry:
    for part in (product.object_, product.probes):
        try:
            return part.get_pixel_geometry()
        except ValueError:
            # A new product of Ptychodus has no pixel size.
            continue
    return PixelGeometry(0.0, 0.0)


def _mask(parameters: ReconstructInput) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None:
    mask = parameters.bad_pixels
    return None if mask is None else np.asarray(mask, dtype=bool)


def to_product(
    before: Product,
    scan: Scan,
    object_: ComplexArray,
    origin_px: FloatArray,
    *,
    probe: ComplexArray | None = None,
    losses: Mapping[int, float] | None = None,
    moves_px: FloatArray | None = None,
    intensities: FloatArray | None = None,
    variation: ProbeVariation | None = None,
) -> Product:
    """Put a reconstructed object into a product.

    Parameters
    ----------
    before : Product
        Gives the metadata and the positions.
    scan : Scan
        What was reconstructed, in pixels of `before`; its positions are those of `before`.
    object_ : ndarray of complex64, shape (height, width)
    origin_px : ndarray of float64, shape (2,)
        (y, x): where pixel [0, 0] of `object_` lies in the coordinates of the scan's positions.
    probe : ndarray of complex64, shape (n_modes, pattern_height, pattern_width), optional
        As used; else the scan's.
    losses : mapping of int to float, optional
        Poisson loss of the start, 0, and after each iteration.
    moves_px : ndarray of float64, shape (n_positions, 2), optional
        How far the positions of `before` were moved, (y, x).
    intensities : ndarray of float64, shape (n_positions,), optional
        Of the beam at each position. The host weights the first mode of a probe alone, so that it
        gets them for a probe of one mode.
    variation : ProbeVariation, optional
        Eigenmodes and weights of `probe`; else the scan's, where `probe` is.
    """
    geometry = scan.geometry
    # `to_scan` refuses a product without them.
    pixel_m = np.array([geometry.pixel_height_m, geometry.pixel_width_m], dtype=np.float64)
    offset = [matching.middle_offset_px(side) for side in scan.pattern_shape]
    # Ptychodus counts from the middle of the object, which may lie between pixels.
    middle = origin_px + (np.array(object_.shape) - 1) / 2
    # The first position ties both coordinates together: zero is somewhere else in each.
    first_m = ptychodus_compat.positions_m(before.probe_positions)[0]
    centre_m = first_m + (middle - scan.positions_px[0] + offset) * pixel_m
    pixel = PixelGeometry(width_m=float(pixel_m[1]), height_m=float(pixel_m[0]))
    modes = scan.probe if probe is None else probe
    positions = before.probe_positions
    if moves_px is not None:
        positions = ptychodus_compat.moved(positions, moves_px * pixel_m)
    if probe is None:
        variation = scan.probe_variation
    array, weights = coherent_modes(modes, variation, intensities)
    return replace(
        before,
        probe_positions=positions,
        probes=ProbeSequence(array, weights, pixel),
        object_=Object(
            np.asarray(object_), pixel, ObjectCenter(float(centre_m[1]), float(centre_m[0]))
        ),
        losses=[LossValue(epoch, float(value)) for epoch, value in (losses or {}).items()],
    )
