"""What the user gives beside the file of a scan: the same for every reader."""

from dataclasses import dataclass
from pathlib import Path

from ptychopinn_plugin.array_types import BoolArray, ComplexArray
from ptychopinn_plugin.data.geometry import Geometry
from ptychopinn_plugin.data.readers.domain import Domain


@dataclass(frozen=True)
class ReadingRequest:
    """What a scan is called, and what takes the place of what its file holds.

    Attributes
    ----------
    name : str
        For messages and plots.
    domain : 'counts' or 'amplitudes', optional
        What the patterns hold. Where it is not given, that is the reader's matter: files of NumPy
        and MATLAB state it or it is inferred (`infer_domain`), and every other format holds counts.
    probe : ndarray of complex, shape (n_modes, height, width), optional
        Used in place of any other. Without one anywhere, a probe is made of the patterns.
    geometry : Geometry, optional
        Energy, distance and sizes of pixels in place of those in the file.
    beam_center_px : (row, column), optional
        Where the beam meets the detector; else where the file has it, or in the middle.
    mask : ndarray of bool, shape (frame_height, frame_width), optional
        More bad pixels.
    scan_step_m : float, optional
        The step of a raster in both directions, in place of that in the file.
    scan_shape : (rows, columns), optional
        Of a raster in a file that holds a stack of patterns, or in place of what it holds.
    single_shot : bool
        Each pattern is reconstructed alone, so that its position need not be known.
    """

    name: str
    domain: Domain | None = None
    probe: ComplexArray | None = None
    geometry: Geometry | None = None
    beam_center_px: tuple[int, int] | None = None
    mask: BoolArray | None = None
    scan_step_m: float | None = None
    scan_shape: tuple[int, int] | None = None
    single_shot: bool = False

    @property
    def given_geometry(self) -> Geometry:
        """The geometry; an empty one where nothing is given."""
        return self.geometry or Geometry()


NOTE_WITHOUT_POSITIONS = 'No positions were read; each pattern stands alone.'


ADVICE_ALONE = (
    'Where patterns share nothing, each is reconstructed alone and no positions are needed: '
    '--single-shot (reading.single_shot).'
)
"""The advice follows where positions are missing."""


def load_name(path: Path) -> str:
    """Return a name for the scan of a file: the folder's where the file's own is a common one."""
    path = path.resolve()
    name = path.parent.name if path.stem in ('diffraction', 'product') else path.stem
    # What is no UTF-8 in it cannot be written into any file.
    return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')
