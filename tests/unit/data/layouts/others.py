"""How other beamlines and programs write their files."""

from pathlib import Path

import numpy as np
from scipy.io import savemat
from unit.data.layouts.files import (
    DISTANCE_M,
    ENERGY_EV,
    HC_EV_M,
    Truth,
    Written,
    link,
    write_csv,
    write_h5,
    write_mda,
    write_tiffs,
)

from ptychopinn_plugin.data import Geometry


def cxi(truth: Truth) -> Written:
    mask = np.zeros((truth.size, truth.size), np.uint32)
    mask[2:4, 5] = 1
    path = write_h5(
        truth.folder / 'scan.cxi',
        entry_1__data_1__data=truth.scan.patterns,
        entry_1__instrument_1__detector_1__mask=mask,
        entry_1__instrument_1__detector_1__distance=DISTANCE_M,
        entry_1__instrument_1__detector_1__x_pixel_size=truth.pixel_m,
        entry_1__instrument_1__detector_1__y_pixel_size=truth.pixel_m,
        entry_1__instrument_1__source_1__energy=ENERGY_EV * 1.602176634e-19,
        entry_1__sample_1__geometry_1__translation=np.stack(
            [truth.x_m, truth.y_m, 0 * truth.x_m], 1
        ),
    )
    return {'path': path, 'positions': write_csv(truth)}


def _hxn_mda(truth: Truth) -> Path:
    return write_mda(truth.folder / 'positions.mda', [truth.x_m * 1e6, truth.y_m * 1e6])


def cnm_hxn(truth: Truth) -> Written:
    path = write_h5(truth.folder / 'scan.h5', entry__data__data=truth.scan.patterns)
    return {'path': path, 'positions': _hxn_mda(truth), 'geometry': truth.all_geometry()}


def cnm_hxn_tiff(truth: Truth) -> Written:
    return {
        'path': write_tiffs(truth),
        'positions': _hxn_mda(truth),
        'geometry': truth.all_geometry(),
    }


def lcls(truth: Truth) -> Written:
    monitor = np.full(len(truth.scan), 2500.0)
    monitor[[4, 17]] = 100.0
    # A pedestal is subtracted, and dark pixels fall below zero.
    images = truth.scan.patterns.astype(np.float32)
    images[images == 0] = -0.2
    images[:, 10:12] = np.nan
    images[[4, 17]] = 0
    path = write_h5(
        truth.folder / 'run.h5',
        jungfrau1M__image_img=images,
        ipm2__sum=monitor,
        lmc__ch03=-truth.x_m * 1e6,
        lmc__ch04=truth.x_m * 0,
        lmc__ch05=-truth.y_m * 1e6,
    )
    return {'path': path, 'geometry': truth.all_geometry()}


def nanomax(truth: Truth) -> Written:
    write_h5(truth.folder / 'eiger.h5', entry__measurement__Eiger__data=truth.scan.patterns)
    master = write_h5(
        truth.folder / 'scan.h5',
        entry__measurement__pseudo__x=truth.x_m * 1e6,
        entry__measurement__pseudo__y=truth.y_m * 1e6,
    )
    target = 'entry/measurement/Eiger/data'
    link(master, 'entry/measurement/eiger1m/frames', 'eiger.h5', target)
    return {'path': master, 'geometry': truth.all_geometry()}


def nsls2_matlab(truth: Truth) -> Written:
    index = np.arange(len(truth.scan))
    path = write_h5(
        truth.folder / 'scan.mat',
        det_data=truth.scan.patterns,
        det_pixel_size=[[truth.pixel_m * 1e6]],
        det_dist=DISTANCE_M * 1e6,
        energy=ENERGY_EV / 1e3,
        img_pixel_size_x=[[truth.object_pixel_m]],
        img_pixel_size_y=[[truth.object_pixel_m]],
        pos_xy=np.stack([index, truth.x_m * 1e6, truth.y_m * 1e6]),
        prb=truth.scan.probe[0],
        obj=truth.scan.object_,
    )
    return {'path': path, 'probe_from': None}


def nsls2_style_1(truth: Truth) -> Written:
    path = write_h5(
        truth.folder / 'scan.h5',
        diff_data__merlin1__det_images=truth.scan.patterns,
        scan__energy=ENERGY_EV,
        scan__exposure_time=0.1,
        scan__scan_positions=np.stack([truth.x_m, truth.y_m]) * 1e6,
    )
    geometry = Geometry(
        detector_distance_m=DISTANCE_M,
        detector_pixel_height_m=truth.pixel_m,
        detector_pixel_width_m=truth.pixel_m,
    )
    return {'path': path, 'geometry': geometry}


def nsls2_style_2(truth: Truth) -> Written:
    path = write_h5(
        truth.folder / 'scan.h5',
        diffamp=np.fft.fftshift(np.sqrt(truth.scan.patterns.astype(np.float64)), axes=(1, 2)),
        points=np.stack([truth.x_m, truth.y_m]) * 1e6,
        ccd_pixel_um=truth.pixel_m * 1e6,
        lambda_nm=HC_EV_M / ENERGY_EV * 1e9,
        z_m=DISTANCE_M,
        angle=0.0,
    )
    return {'path': path}


def npy(truth: Truth) -> Written:
    np.save(truth.folder / 'scan.npy', truth.scan.patterns)
    positions = truth.folder / 'positions.txt'
    np.savetxt(positions, np.stack([truth.x_m, truth.y_m], 1), fmt='%15.9g')
    return {
        'path': truth.folder / 'scan.npy',
        'positions': positions,
        'geometry': truth.all_geometry(),
    }


def npz(truth: Truth) -> Written:
    indexes = np.arange(len(truth.scan))
    path, product = truth.folder / 'scan.npz', truth.folder / 'product.npz'
    # Positions are in another order than patterns.
    back = slice(None, None, -1)
    np.savez(path, patterns=truth.scan.patterns, indexes=indexes + 3)
    np.savez(
        product,
        probe=truth.scan.probe,
        object=truth.scan.object_,
        detector_object_distance_m=DISTANCE_M,
        photon_energy_eV=ENERGY_EV,
        probe_position_indexes=indexes[back] + 3,
        probe_position_x_m=truth.x_m[back],
        probe_position_y_m=truth.y_m[back],
        object_pixel_width_m=truth.object_pixel_m,
        object_pixel_height_m=truth.object_pixel_m,
        object_center_x_m=0.0,
        object_center_y_m=0.0,
    )
    return {'path': path, 'product': product, 'probe_from': None}


def slac(truth: Truth) -> Written:
    path = truth.folder / 'scan.npz'
    np.savez(
        path,
        diffraction=np.sqrt(truth.scan.patterns).astype(np.float32).transpose(1, 2, 0),
        xcoords_start=truth.scan.positions_px[:, 1],
        ycoords_start=truth.scan.positions_px[:, 0],
        probeGuess=truth.scan.probe[0],
        objectGuess=truth.scan.object_,
        detector_distance_m=DISTANCE_M,
        photon_energy_eV=ENERGY_EV,
    )
    # What the reader assumes where such a file has nothing.
    pixel = Geometry(detector_pixel_height_m=75e-6, detector_pixel_width_m=75e-6)
    return {'path': path, 'probe_from': None, 'geometry': pixel}


def csaxs(truth: Truth) -> Written:
    path = write_h5(
        truth.folder / 'scan.h5',
        entry__data__data=truth.scan.patterns,
        entry__instrument__monochromator__distance=-DISTANCE_M * 1e3,
        entry__instrument__monochromator__energy=ENERGY_EV / 1e3,
        entry__instrument__eiger_4__x_pixel_size=truth.pixel_m * 1e6,
        entry__instrument__eiger_4__y_pixel_size=truth.pixel_m * 1e6,
    )
    return {'path': path, 'positions': write_csv(truth)}


def tiff(truth: Truth) -> Written:
    return {
        'path': write_tiffs(truth),
        'positions': write_csv(truth),
        'geometry': truth.all_geometry(),
    }


def fold_slice(truth: Truth) -> Written:
    path = write_h5(truth.folder / 'scan_dp.hdf5', dp=truth.scan.patterns)
    positions = write_h5(truth.folder / 'scan_para.hdf5', ppX=[truth.x_m], ppY=[truth.y_m])
    return {'path': path, 'positions': positions, 'geometry': truth.geometry()}


def fold_slice_mat(truth: Truth) -> Written:
    product, pixel = truth.folder / 'recon.mat', truth.object_pixel_m
    positions_px = np.stack([truth.x_m, truth.y_m], 1) / pixel
    savemat(
        product,
        {
            'p': {'lambda': HC_EV_M / ENERGY_EV, 'dx_spec': [pixel, pixel]},
            'probe': truth.scan.probe[0],
            'object': truth.scan.object_,
            'outputs': {'probe_positions': positions_px, 'fourier_error_out': [1.0, 0.5]},
        },
    )
    path = write_h5(truth.folder / 'scan_dp.hdf5', dp=truth.scan.patterns)
    return {'path': path, 'product': product, 'probe_from': None}
