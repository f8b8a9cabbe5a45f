"""Ptychography without labels: train a network on diffraction patterns, see the object.

>>> import ptychopinn_plugin as pinn
>>> scan = pinn.load_scan('scan.npz')
>>> result = pinn.train(scan)
>>> pinn.save_model('wts.h5.zip', result.model)
>>> reconstruction = pinn.reconstruct(result.model, 'other_scan.npz')

Names are imported when they are first used, and a framework when it has something to compute.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ptychopinn_plugin._version import __version__

if TYPE_CHECKING:
    from ptychopinn_plugin.api import (
        Check,
        Config,
        Evaluation,
        HalfScans,
        InferenceConfig,
        Model,
        ModelConfig,
        Orientation,
        Progress,
        PtychoPinnError,
        Reconstruction,
        RefinementConfig,
        Scan,
        SimulationConfig,
        TrainingConfig,
        TrainingResult,
        check,
        compare_half_scans,
        evaluate,
        load_scan,
        open_model,
        read_reconstruction,
        reconstruct,
        refine,
        save_model,
        simulate,
        train,
        write_product,
        write_reconstruction,
        write_scan,
    )

__all__ = [
    'Check',
    'Config',
    'Evaluation',
    'HalfScans',
    'InferenceConfig',
    'Model',
    'ModelConfig',
    'Orientation',
    'Progress',
    'PtychoPinnError',
    'Reconstruction',
    'RefinementConfig',
    'Scan',
    'SimulationConfig',
    'TrainingConfig',
    'TrainingResult',
    '__version__',
    'check',
    'compare_half_scans',
    'evaluate',
    'load_scan',
    'open_model',
    'read_reconstruction',
    'reconstruct',
    'refine',
    'save_model',
    'simulate',
    'train',
    'write_product',
    'write_reconstruction',
    'write_scan',
]


def __getattr__(name: str) -> Any:
    """Import a public name from `api` when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module('ptychopinn_plugin.api'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
