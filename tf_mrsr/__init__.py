"""Published MR super-resolution and synthesis networks, geometry-true, in TensorFlow/Keras.

The package root stays light: importing it loads neither TensorFlow nor NumPy. Use the submodules, for instance
``tf_mrsr.networks.sanchez2018.generator`` or ``tf_mrsr.volume.read_volume``.
"""

__version__ = "0.1.0"
