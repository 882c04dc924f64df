"""What the program's recorded numbers do not hold: they were made with weights of a formula."""

import numpy as np
import pytest

from tf_mrsr.networks import sanchez2018


def test_initial_weights_of_the_discriminator():
    """Normal for convolutions; cut off at two standard deviations for dense layers, which leaves 0.88 of one."""
    model = sanchez2018.discriminator((16, 16, 16))
    kernel = model.get_layer("conv8").kernel.numpy()
    assert kernel.std() == pytest.approx(0.02, rel=0.01)
    assert np.abs(kernel).max() > 0.06
    dense = model.get_layer("dense1").kernel.numpy()
    assert dense.std() == pytest.approx(0.088, rel=0.01)
    assert np.abs(dense).max() <= 0.2
