"""The PyTorch backend; this module does not import torch."""

from ptychopinn_plugin.backends.spec import BackendSpec

spec = BackendSpec(
    name='pytorch',
    framework='torch',
    distribution='torch',
    minimum_version='2.4',
    extra='pytorch',
    aliases=('torch',),
    loader='ptychopinn_plugin.backends.pytorch.adapter:PyTorchBackend',
    joining='ptychopinn_plugin.backends.pytorch.ranks:joined',
)
