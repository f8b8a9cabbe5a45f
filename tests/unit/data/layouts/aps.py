"""How beamlines of the Advanced Photon Source write their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from unit.data.layouts.files import (
    DISTANCE_M,
    ENERGY_EV,
    HC_EV_M,
    Truth,
    Written,
    link,
    raster_mda,
    write_h5,
    write_mda,
    write_tiffs,
)

from ptychopinn_plugin.data import Geometry


def _points(truth: Truth, write: Callable[[Path, np.ndarray], object], suffix: str) -> Path:
    """Write a file for each pattern and, in a folder beside, two readings of each position."""
    for folder in ('frames', 'positions'):
        (truth.folder / folder).mkdir()
    for number, pattern in enumerate(truth.scan.patterns):
        # Twelve lines: in the order of their names, the tenth would follow the first.
        name = f'sample_007_{number // 3 + 1}_{number % 3}'
        write(truth.folder / 'frames' / f'{name}{suffix}', pattern)
        y, x = truth.y_m[number] * 1e9, truth.x_m[number] * 1e9
        rows = [[0, y + 0.5, -x + 1, 0], [0, y - 0.5, -x - 1, 0]]
        np.savetxt(truth.folder / 'positions' / f'{name}.dat', rows)
    return truth.folder / 'frames' / f'sample_007_1_1{suffix}'


def aps_12id(truth: Truth) -> Written:
    def write(path: Path, pattern: np.ndarray) -> None:
        data = pattern.astype(np.int32)
        data[10:12] = -1
        write_h5(path, entry__data__data=data, entry__instrument__NDAttributes__monoE=[ENERGY_EV])

    return {
        'path': _points(truth, write, '.h5'),
        'positions': truth.folder / 'positions' / 'sample_007_1_1.dat',
        'geometry': Geometry(detector_distance_m=DISTANCE_M),
    }


def aps_12id_tiff(truth: Truth) -> Written:
    import tifffile

    return {
        'path': _points(truth, tifffile.imwrite, '.tif'),
        'positions': truth.folder / 'positions' / 'sample_007_1_1.dat',
        'geometry': truth.geometry(),
    }


def aps_12id_processed(truth: Truth) -> Written:
    y, x = truth.lines(truth.y_m) * 1e9, truth.lines(truth.x_m) * 1e9
    for line, frames in enumerate(truth.lines(truth.frames(25, 27, 9))):
        positions = np.stack([0 * x[line], y[line], -x[line]], 1)
        write_h5(truth.folder / f'sample_007_{line + 8}.h5', dp=frames, positions=positions)
    with h5py.File(truth.folder / 'sample_007_master.h5', 'w') as master:
        master.attrs['beam_center_YX'] = [25.2, 26.9]
    return {'path': truth.folder / 'sample_007_master.h5', 'geometry': truth.geometry()}


def _series(truth: Truth, name: str, **others: Any) -> Path:
    """Write a file for each line; dead pixels hold the largest number of the file's type."""
    for line, frames in enumerate(truth.lines(truth.scan.patterns)):
        # The first is of a larger type than the rest, as an Eiger's first file may be.
        kind = np.uint16 if line else np.uint32
        data = frames.astype(kind)
        data[:, 3, 7:9] = np.iinfo(kind).max
        write_h5(truth.folder / f'{name}_{line + 1:03}.h5', entry__data__data=data, **others)
        # Another scan in the same folder.
        write_h5(truth.folder / f'{name[:-1]}x_{line + 1:03}.h5', entry__data__data=data[:1])
    return truth.folder / f'{name}_002.h5'


def isn(truth: Truth) -> Written:
    wavelength = [HC_EV_M / ENERGY_EV * 1e10]
    path = _series(truth, 'scan_1307', entry__instrument__NDAttributes__Wavelength=wavelength)
    positions = write_h5(
        truth.folder / 'positions.h5',
        entry__data__X_Position=truth.x_m * 1e6,
        entry__data__Y_Position=truth.y_m * 1e6,
    )
    geometry = Geometry(detector_distance_m=DISTANCE_M)
    return {'path': path, 'positions': positions, 'geometry': geometry}


def isn_mda(truth: Truth) -> Written:
    positions = write_mda(
        truth.folder / 'positions.mda',
        [truth.x_m * 0],
        Piezo_Y_all=truth.y_m * 1e3,
        X_Axis=truth.x_m * 1e3,
    )
    return {**isn(truth), 'positions': positions}


def raster(unit_m: float, surplus: int = 0) -> Callable[[Truth], Written]:
    return lambda truth: {
        'path': _series(truth, 'fly054_data'),
        'positions': raster_mda(truth, unit_m, surplus),
        'geometry': truth.geometry(),
    }


def bnp_maps(truth: Truth) -> Written:
    maps = write_h5(
        truth.folder / 'maps.h5',
        MAPS__x_axis=truth.lines(truth.x_m)[0] * 1e6,
        MAPS__y_axis=truth.lines(truth.y_m)[:, 0] * 1e6,
    )
    return {**raster(1e-6)(truth), 'positions': maps}


_ORCHESTRA = (
    'DataPoint TotalPoints Target_x Average_x_st_fzp Stdev_x_st_fzp Target_y Average_y_st_fzp '
    'Stdev_y_st_fzp Average_cap1 Stdev_cap1 Average_cap2 Stdev_cap2 Average_cap3 Stdev_cap3 '
    'Average_cap4 Stdev_cap4 Average_cap5 Stdev_cap5'
)


def lamni(truth: Truth) -> Written:
    path = write_h5(
        truth.folder / 'scan.h5',
        entry__data__data=truth.frames(25, 27, 3),
        entry__instrument__detector__detector_distance=[DISTANCE_M * 1e3],
        entry__instrument__detector__x_pixel_size=[truth.pixel_m * 1e6],
        entry__instrument__detector__y_pixel_size=[truth.pixel_m * 1e6],
        entry__instrument__monochromator__energy=[ENERGY_EV / 1e3],
        entry__instrument__detector__count_time=[0.1],
        entry__instrument__detector__beam_center_x=[27],
        entry__instrument__detector__beam_center_y=[25],
    )
    rows = ['Scan 7, today', _ORCHESTRA]
    for number, (x, y) in enumerate(zip(-truth.x_m * 1e6, -truth.y_m * 1e6, strict=True)):
        rows.append(f'{number} 30 0 {x:.7f} 0 0 {y:.7f}' + ' 0' * 11)
    (truth.folder / 'scan.dat').write_text('\n'.join(rows))
    return {'path': path, 'positions': truth.folder / 'scan.dat'}


def lamni_legacy(truth: Truth) -> Written:
    path = write_h5(truth.folder / 'scan.h5', entry__data__eiger_4=truth.scan.patterns)
    with h5py.File(path, 'a') as file:
        attributes = file['entry/data/eiger_4'].attrs
        attributes['Detector_distance_m'] = DISTANCE_M
        attributes['Photon_energy_kev'] = ENERGY_EV / 1e3
        attributes['Pixel_size'] = truth.pixel_m
    rows = ['Scan 7, today', 'DataPoint x_st_fzp y_st_fzp ckUser_Clk_Count Detector_Count']
    for number, (x, y) in enumerate(zip(-truth.x_m * 1e6, -truth.y_m * 1e6, strict=True)):
        samples = ((x + offset, y - offset) for offset in (-0.01, 0.01))
        rows += [f'0 {each[0]:.7f} {each[1]:.7f} 0 {number + 1}' for each in samples]
    (truth.folder / 'scan.dat').write_text('\n'.join(rows))
    return {'path': path, 'positions': truth.folder / 'scan.dat'}


def velociprobe(positions_reader: str) -> Callable[[Truth], Written]:
    def write(truth: Truth) -> Written:
        frames, master = truth.frames(25, 27, 3), truth.folder / 'fly_master.h5'
        for number, part in enumerate((frames[:20], frames[20:]), start=1):
            name = f'data_{number:06}'
            write_h5(truth.folder / f'fly_{name}.h5', entry__data__data=part)
            link(master, f'entry/data/{name}', f'fly_{name}.h5', '/entry/data/data')
        detector, chi = 'entry/instrument/detector', 35.0
        with h5py.File(master, 'a') as file:
            for name, value, unit in (
                (f'{detector}/detectorSpecific/nimages', 20, ''),
                (f'{detector}/detectorSpecific/ntrigger', 1, ''),
                (f'{detector}/detectorSpecific/photon_energy', ENERGY_EV, 'eV'),
                (f'{detector}/detectorSpecific/x_pixels_in_detector', 50, ''),
                (f'{detector}/detectorSpecific/y_pixels_in_detector', 60, ''),
                (f'{detector}/detector_distance', DISTANCE_M, 'm'),
                (f'{detector}/beam_center_x', 27.0, 'pixel'),
                (f'{detector}/beam_center_y', 25.0, 'pixel'),
                (f'{detector}/x_pixel_size', truth.pixel_m, 'm'),
                (f'{detector}/y_pixel_size', truth.pixel_m, 'm'),
                ('entry/sample/goniometer/chi', chi, 'degree'),
            ):
                file[name] = value
                file[name].attrs['units'] = np.bytes_(unit)
        rows = np.zeros((len(truth.scan), 8), dtype=int)
        # The stage is turned about y, so that x is seen shortened.
        rows[:, 1] = np.rint(truth.x_m * 1e9 / np.cos(np.deg2rad(chi)))
        column, sign = (2, 1) if positions_reader.endswith('LI') else (5, -1)
        rows[:, column] = np.rint(sign * truth.y_m * 1e9)
        rows[:, 7] = np.arange(len(rows))
        positions = truth.folder / 'positions.txt'
        np.savetxt(positions, rows, fmt='%d', delimiter=',')
        return {'path': master, 'positions': positions, 'positions_reader': positions_reader}

    return write


def aps_34ide(truth: Truth) -> Written:
    positions = raster_mda(truth, 1e-5)
    return {'path': write_tiffs(truth), 'positions': positions, 'geometry': truth.all_geometry()}


def _polar(truth: Truth, first: int) -> Path:
    """Write a detector's file, in which two frames were dropped, and the master's link to it."""
    taken = np.r_[0:10, 12:30]
    write_h5(
        truth.folder / 'eiger.h5',
        entry__data__data=truth.frames(25, 27, 3)[taken],
        entry__instrument__NDAttributes__NDArrayUniqueId=taken + first,
        entry__instrument__NDAttributes__DetectorDistance=[DISTANCE_M * 1e3],
        entry__instrument__NDAttributes__BeamCenterX=[27.0],
        entry__instrument__NDAttributes__BeamCenterY=[25.0],
    )
    master = truth.folder / 'master.hdf'
    link(master, 'entry/externals/eiger', 'eiger.h5', '/entry/instrument')
    energy = 'entry/instrument/bluesky/streams/baseline/mono_energy/value_start'
    with h5py.File(master, 'a') as file:
        file[energy] = ENERGY_EV / 1e3
    return master


def polar_fly(truth: Truth) -> Written:
    master = _polar(truth, 501)
    link(master, 'entry/externals/pos_stream', 'stream.h5', '/entry/instrument')
    # Trigger 0 comes before the first frame; three samples for each.
    rows = np.zeros((93, 24))
    rows[:, 1] = np.arange(93)
    rows[:, 2] = np.repeat(np.arange(31), 3)
    rows[3:, 3] = np.repeat(-truth.x_m * 1e9, 3) + np.tile([-2, 0, 2], 30)
    rows[3:, 4] = np.repeat(-truth.y_m * 1e9, 3)
    write_h5(truth.folder / 'stream.h5', entry__data__data=rows)
    return {'path': master}


def polar_step(truth: Truth) -> Written:
    master = _polar(truth, 501)
    taken = np.r_[0:10, 12:30]
    primary = 'entry__instrument__bluesky__streams__primary'
    write_h5(
        master,
        entry__instrument__bluesky__metadata__motors='- nanox\n- nanoy\n',
        **{f'{primary}__nanox__value': -truth.x_m[taken] * 1e6},
        **{f'{primary}__nanoy__value': -truth.y_m[taken] * 1e6},
    )
    return {'path': master}


def cssi(truth: Truth) -> Written:
    path = write_h5(
        truth.folder / 'scan.h5',
        exchange__data=truth.frames(25, 27, 3).astype('>u2'),
        exchange__motor_pos=np.stack([truth.x_m, truth.y_m], 1) * 1e3,
    )
    return {'path': path, 'geometry': truth.all_geometry(), 'beam_center_px': (25, 27)}
