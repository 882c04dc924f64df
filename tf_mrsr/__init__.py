"""Published MR super-resolution and synthesis networks, geometry-true, in TensorFlow/Keras.

The package root stays light: importing it loads neither TensorFlow nor NumPy, nor the modules below it, which are
imported by name::

    from tf_mrsr.networks import sanchez2018
    from tf_mrsr.volume import read_volume
"""

__version__ = "0.1.0"
