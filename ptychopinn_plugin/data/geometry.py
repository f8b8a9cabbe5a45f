"""Lengths and energy of an experiment, and how light gets from the sample to the detector."""

import dataclasses
from dataclasses import dataclass

from ptychopinn_plugin.array_types import ComplexArray
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.physics.propagation import transfer_function

ELECTRON_VOLT_J = 1.602176634e-19

HC_J_M = 6.62607015e-34 * 299792458.0

TO_BE_FAR = 'where the detector is in the far field after all, use --no-near-field'


def wavelength_m(photon_energy_eV: float) -> float:
    """Return the wavelength of a photon."""
    return HC_J_M / (photon_energy_eV * ELECTRON_VOLT_J)


@dataclass(frozen=True)
class Geometry:
    """What turns pixels into metres; each value is None where the file does not hold it.

    Attributes
    ----------
    pixel_height_m, pixel_width_m : float
        Size of an object pixel: in the far field the wavelength times the distance over the
        detector's width, in the near field the detector's pixel over the magnification.
    photon_energy_eV, detector_distance_m, detector_pixel_height_m, detector_pixel_width_m : float
        What it was computed from; a Ptychodus product carries them.
    near_field : bool
        Whether the patterns are images in the near field of the sample, and not its far field; None
        where nobody states it, which is the far field.
    focus_object_distance_m : float
        Where the beam's focus lies from the sample on, downstream: negative for a beam that
        diverges at the sample. None (or 0, in files) for a parallel beam. It matters in the near
        field alone.
    """

    pixel_height_m: float | None = None
    pixel_width_m: float | None = None
    photon_energy_eV: float | None = None
    detector_distance_m: float | None = None
    detector_pixel_height_m: float | None = None
    detector_pixel_width_m: float | None = None
    near_field: bool | None = None
    focus_object_distance_m: float | None = None

    @property
    def is_near_field(self) -> bool:
        """Whether the patterns are those of the near field."""
        return bool(self.near_field)

    def stated(self) -> dict[str, float | bool]:
        """Return the values that are known, by name; a zero in a file is no value."""
        values = dataclasses.asdict(self).items()
        return {name: value for name, value in values if value or value is False}

    def with_values_of(self, other: 'Geometry') -> 'Geometry':
        """Return the same with the values that another one states in place of its own."""
        return dataclasses.replace(self, **other.stated())  # type: ignore[arg-type]

    def magnification(self) -> float:
        r"""Return how many times larger than the sample its image in the near field is.

        With the focus at :math:`z_f` and the detector at :math:`z` behind the sample it is
        :math:`(z_f - z) / z_f`, and 1 in a parallel beam.

        Raises
        ------
        DataError
            If the focus lies between sample and detector.
        """
        focus_m, distance_m = self.focus_object_distance_m, self.detector_distance_m
        if not focus_m or not distance_m:
            return 1.0
        if 0 < focus_m <= distance_m:
            raise DataError(
                'In the near field the focus of the beam must lie before the sample or behind the '
                f'detector; it lies {focus_m:.4g} m behind the sample, with the detector at '
                f'{distance_m:.4g} m. Correct --focus-distance (focus_object_distance_m): it is '
                'negative for a focus before the sample.'
            )
        return (focus_m - distance_m) / focus_m

    def transfer_function(self, shape: tuple[int, int]) -> ComplexArray | None:
        r"""Return what the spectrum of a wave is multiplied by on its way to the detector.

        By the Fresnel scaling theorem [1]_ a beam from a focus makes the image that a parallel one
        would make at the distance :math:`z / M`, magnified :math:`M` times.

        Parameters
        ----------
        shape : (height, width)
            Of the patterns.

        Returns
        -------
        ndarray of complex64, shape (height, width), or None
            Zero frequency in the corner; None in the far field.

        Raises
        ------
        DataError
            If a value is missing, or the frames are too small to hold what a point becomes.

        References
        ----------
        .. [1] D. M. Paganin, Coherent X-Ray Optics (2006), appendix B.
        """
        if not self.is_near_field:
            return None
        pixel_m = self.pixel_height_m, self.pixel_width_m
        energy_eV, distance_m = self.photon_energy_eV, self.detector_distance_m
        missing = [
            option
            for option, value in (
                ('--photon-energy (of electrons: --electron-energy)', energy_eV),
                ('--detector-distance', distance_m),
                ('--detector-pixel', pixel_m[0] and pixel_m[1]),
            )
            if not value
        ]
        if missing or not (energy_eV and distance_m and pixel_m[0] and pixel_m[1]):
            raise DataError(
                'The near field needs energy, distance and pixels, a part of which is unknown. Use '
                f'{", ".join(missing)} (geometry=Geometry(...)); {TO_BE_FAR}.'
            )
        wavelength = wavelength_m(energy_eV)
        # By the theorem: pixels are those of the object already, and z becomes z / M.
        effective_m = abs(distance_m) / self.magnification()
        for side, size_m in zip(shape, pixel_m, strict=True):
            assert size_m is not None
            # With less, one pixel alone spreads over more than the frame, and wraps around it.
            fresnel_number = size_m * size_m / (wavelength * effective_m)
            if side * fresnel_number < 1:
                raise DataError(
                    'In the near field a pixel must spread over less than the frame: its area '
                    'over wavelength and distance, times the pixels of a side, must be at least 1; '
                    f'it is {side * fresnel_number:.2g} ({side} pixels of {size_m:.4g} m at '
                    f'{effective_m:.4g} m). Correct energy, distance or pixels; {TO_BE_FAR}.'
                )
        found = transfer_function(shape, (pixel_m[0], pixel_m[1]), wavelength, effective_m)
        return found.astype('complex64')
