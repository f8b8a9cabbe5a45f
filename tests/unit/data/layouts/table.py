"""Every reader with the files that it is tested on."""

from collections.abc import Callable
from dataclasses import dataclass

from unit.data.layouts.aps import (
    aps_12id,
    aps_12id_processed,
    aps_12id_tiff,
    aps_34ide,
    bnp_maps,
    cssi,
    isn,
    isn_mda,
    lamni,
    lamni_legacy,
    polar_fly,
    polar_step,
    raster,
    velociprobe,
)
from unit.data.layouts.files import Truth, Written
from unit.data.layouts.others import (
    cnm_hxn,
    cnm_hxn_tiff,
    csaxs,
    cxi,
    fold_slice,
    fold_slice_mat,
    lcls,
    nanomax,
    npy,
    npz,
    nsls2_matlab,
    nsls2_style_1,
    nsls2_style_2,
    slac,
    tiff,
)


@dataclass(frozen=True)
class Layout:
    """A reader, and how its files are written.

    Attributes
    ----------
    pixel_m : float
        Of the detector, where the reader itself knows it.
    lost : tuple of int
        Patterns that the files do not hold, or that have no position.
    bad : tuple of slice
        Pixels that the detector marks.
    raster : bool
        Lines are straight, so that a position is a row and a column.
    """

    reader: str
    write: Callable[[Truth], Written]
    pixel_m: float = 75e-6
    lost: tuple[int, ...] = ()
    bad: tuple[slice, slice] | None = None
    raster: bool = False


_PILATUS_M = 172e-6
_EIGER_MARKS = (slice(3, 4), slice(7, 9))
_ROWS = (slice(10, 12), slice(None))

LAYOUTS = {
    'APS_2IDD': Layout('APS_2IDD', raster(1e-3), bad=_EIGER_MARKS, raster=True),
    'APS_2IDE': Layout('APS_2IDE', raster(1e-3, surplus=2), bad=_EIGER_MARKS, raster=True),
    'APS_34IDE': Layout('APS_34IDE', aps_34ide, raster=True),
    'APS_BNP': Layout('APS_BNP', raster(1e-6), bad=_EIGER_MARKS, raster=True),
    'APS_BNP, MAPS': Layout('APS_BNP', bnp_maps, bad=_EIGER_MARKS, raster=True),
    'APS_CSSI': Layout('APS_CSSI', cssi),
    'APS_ISN': Layout('APS_ISN', isn, bad=_EIGER_MARKS),
    'APS_ISN, MDA': Layout('APS_ISN', isn_mda, bad=_EIGER_MARKS),
    'APS_LamNI': Layout('APS_LamNI', lamni),
    'APS_LamNI, legacy': Layout('APS_LamNI', lamni_legacy),
    'APS_Polar, fly': Layout('APS_Polar', polar_fly, lost=(10, 11)),
    'APS_Polar, step': Layout('APS_Polar', polar_step, lost=(10, 11)),
    'APS_PtychoSAXS': Layout('APS_PtychoSAXS', aps_12id, _PILATUS_M, bad=_ROWS),
    'APS_PtychoSAXS_Processed': Layout('APS_PtychoSAXS_Processed', aps_12id_processed, _PILATUS_M),
    'APS_PtychoSAXS_TIFF': Layout('APS_PtychoSAXS_TIFF', aps_12id_tiff, _PILATUS_M),
    'APS_Velociprobe, LI': Layout('APS_Velociprobe', velociprobe('APS_Velociprobe_LI')),
    'APS_Velociprobe, PE': Layout('APS_Velociprobe', velociprobe('APS_Velociprobe_PE')),
    'CNM_APS_HXN': Layout('CNM_APS_HXN', cnm_hxn),
    'CNM_APS_HXN_TIFF': Layout('CNM_APS_HXN_TIFF', cnm_hxn_tiff),
    'CXI': Layout('CXI', cxi, bad=(slice(2, 4), slice(5, 6))),
    'LCLS_XPP': Layout('LCLS_XPP', lcls, lost=(4, 17), bad=_ROWS),
    'MAX_IV_NanoMAX': Layout('MAX_IV_NanoMAX', nanomax),
    'NPY': Layout('NPY', npy),
    'NPZ': Layout('NPZ', npz),
    'NSLS_II_1': Layout('NSLS_II_1', nsls2_style_1),
    'NSLS_II_2': Layout('NSLS_II_2', nsls2_style_2),
    'NSLS_II_MATLAB': Layout('NSLS_II_MATLAB', nsls2_matlab),
    'SLAC_NPZ': Layout('SLAC_NPZ', slac),
    'SLS_cSAXS': Layout('SLS_cSAXS', csaxs),
    'TIFF': Layout('TIFF', tiff),
    'fold_slice': Layout('fold_slice', fold_slice),
    'fold_slice, mat': Layout('fold_slice', fold_slice_mat),
}
