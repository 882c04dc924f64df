"""The networks against section 2 of the abstract."""

import keras
import numpy as np
import pytest

from tests.networks import check, impulse
from tf_mrsr.networks import sanchez2017
from tf_mrsr.networks.structure import reach, split


def test_generator_has_six_residual_blocks_of_32_filters():
    model = sanchez2017.generator(2)
    layers = check.convolutions(model)
    assert [layer.kernel_size for layer in layers] == [(3, 3, 3)] * 17
    assert [layer.filters for layer in layers] == [32] * 14 + [64, 64, 1]
    block = [type(model.get_layer(f"block6_{n}")).__name__ for n in ("conv1", "conv1_bn", "act", "conv2", "conv2_bn")]
    assert block == ["Conv3D", "BatchNormalization", "LeakyReLU", "Conv3D", "BatchNormalization"]
    batch_norms = 14 * 4 * 32
    assert model.count_params() == 896 + 13 * 27_680 + 55_360 + 110_656 + 1_729 + batch_norms


def test_upsampling_is_convolution_act_tiles_and_convolution_act():
    _, tail = split(sanchez2017.generator(2))
    names = ["InputLayer", "Conv3D", "LeakyReLU", "NearestConv3D", "LeakyReLU", "FewFiltersConv3D"]
    assert [type(layer).__name__ for layer in tail.layers] == names
    assert tail.layers[3].size == (2, 2, 2)


@pytest.mark.parametrize("scale_factor", [2, 4])
def test_generator_enlarges_all_axes(scale_factor):
    model = sanchez2017.generator(scale_factor, filters=2, num_residual_blocks=1)
    r = scale_factor
    assert model(np.ones((1, 5, 4, 3, 1))).shape == (1, 5 * r, 4 * r, 3 * r, 1)


def test_scale_factor_is_a_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        sanchez2017.generator(3)


def test_reach():
    """15 convolutions before the tiles; behind them two reach one voxel of the scan and a half, rounded outwards."""
    model = sanchez2017.generator(2, filters=2)
    assert reach(model).radius == (17, 17, 17)
    assert impulse.measured_radius(model) == (16, 16, 16)


def test_discriminator_goes_from_64_to_512_filters():
    model = sanchez2017.discriminator((16, 16, 16))
    layers = check.convolutions(model)
    assert [layer.filters for layer in layers] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.kernel_size for layer in layers] == [(3, 3, 3)] * 8
    assert [layer.strides[0] for layer in layers] == [1, 2, 1, 2, 1, 2, 1, 2]
    dense = [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert dense == [1024, 1]
    convolutions = 1_792 + 110_656 + 221_312 + 442_496 + 884_992 + 1_769_728 + 3_539_456 + 7_078_400
    batch_norms = 4 * (64 + 128 + 128 + 256 + 256 + 512 + 512)
    assert model.count_params() == convolutions + batch_norms + (512 + 1) * 1024 + 1025


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: sanchez2017.generator(2, filters=2, num_residual_blocks=1), (4, 5, 3)),
        (lambda: sanchez2017.discriminator((9, 8, 7), filters=(2,) * 8), (9, 8, 7)),
    ],
)
def test_serialisation(model, shape):
    check.assert_survives_serialisation(model(), shape)
