"""Scans and reconstructions: in memory, read and written."""

from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.outline import ScanOutline
from ptychopinn_plugin.data.outline_files import load_outline
from ptychopinn_plugin.data.preparation import (
    find_hot_pixels,
    fit_to_size,
    inpaint,
    one_by_one,
    scale_to_photons,
    without_dark_patterns,
)
from ptychopinn_plugin.data.readers import (
    Domain,
    is_product_file,
    load_scan,
    read_probe,
    read_product,
    reader_names,
    scan_from_arrays,
)
from ptychopinn_plugin.data.reconstruction import Reconstruction
from ptychopinn_plugin.data.scan import Scan
from ptychopinn_plugin.data.summary import describe_scan
from ptychopinn_plugin.data.writers import (
    read_reconstruction,
    write_product,
    write_reconstruction,
    write_scan,
)

__all__ = [
    'Domain',
    'Geometry',
    'Reconstruction',
    'Scan',
    'ScanOutline',
    'describe_scan',
    'find_hot_pixels',
    'fit_to_size',
    'inpaint',
    'is_product_file',
    'load_outline',
    'load_scan',
    'one_by_one',
    'read_probe',
    'read_product',
    'read_reconstruction',
    'reader_names',
    'scale_to_photons',
    'scan_from_arrays',
    'without_dark_patterns',
    'write_product',
    'write_reconstruction',
    'write_scan',
]
