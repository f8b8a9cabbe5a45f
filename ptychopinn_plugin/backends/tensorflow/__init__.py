"""The TensorFlow backend; this module does not import TensorFlow."""

from ptychopinn_plugin.backends.spec import BackendSpec

spec = BackendSpec(
    name='tensorflow',
    framework='tensorflow',
    distribution='tensorflow',
    minimum_version='2.16',
    extra='tensorflow',
    aliases=('tf',),
    loader='ptychopinn_plugin.backends.tensorflow.adapter:TensorFlowBackend',
)
