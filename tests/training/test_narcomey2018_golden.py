"""The adversarial step and the feature loss against recorded updates of the narcomey2018 program.

The program trains on the mean squared error alone, then on that, VGG19's features and the discriminator. The feature
loss is compared beside the step, which has no such term; next to a squared error of raw intensities its share of the
gradient is 1e-8.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import golden
from tests.networks.test_vgg19 import formula_weights, write_npy
from tests.training.test_step_golden import by_program_name, relative_rms
from tf_mrsr import losses
from tf_mrsr.networks import narcomey2018, vgg19
from tf_mrsr.recipe import (
    ContentTerm,
    DiscriminatorAdversarial,
    DiscriminatorTraining,
    GeneratorAdversarial,
    GeneratorTraining,
    Optimizer,
    Stage,
)
from tf_mrsr.training.step import AdversarialStep, make_optimizer

pytestmark = golden.needs_golden
CASES = {"train_m1_S128": 1, "train_m2_S96": 3}
ADAM = Optimizer(1e-4)
SQUARED_ERROR = (ContentTerm("mean_squared_error", 1.0),)
SRRESNET = Stage("srresnet", 1, GeneratorTraining(ADAM, SQUARED_ERROR))
SRGAN = Stage(
    "srgan",
    1,
    GeneratorTraining(
        ADAM,
        SQUARED_ERROR,
        GeneratorAdversarial("binary_cross_entropy", 1e-3, (1.0, 1.0), "logits"),
        batch_norm_updates=2,
    ),
    DiscriminatorTraining(
        ADAM, DiscriminatorAdversarial("binary_cross_entropy", 1.0, (1.0, 1.0), (0.0, 0.0), "logits")
    ),
)


def images(case, channels):
    """A thick and a thin slice in raw intensities; the program reshapes Model 2's slices, not transposes."""
    size = case["S"]
    low_res = np.round(np.maximum(0, 100 + 80 * golden.volume((size, size), np.float64)))
    shape = (size, size) if channels == 1 else (channels, size, size)
    high_res = np.round(np.maximum(0, 110 + 90 * golden.volume2(shape, np.float64)))
    return low_res.reshape(1, size, size, 1).astype(np.float32), high_res.reshape(1, size, size, channels).astype("f4")


def pieces(name, case, file):
    flat, start = golden.array(name, file, golden.NARCOMEY).ravel(), 0
    for variable, shape in case["npy_layout"][file]:
        size = int(np.prod(shape))
        yield variable, flat[start : start + size].reshape(shape)
        start += size
    assert start == len(flat)


def step_of(stage, *models):
    optimizers = [make_optimizer(ADAM, 1) for _ in models]
    for optimizer, model in zip(optimizers, models, strict=True):
        optimizer.build(model.trainable_variables)
    models, optimizers = [*models, None][:2], [*optimizers, None][:2]
    # Each runs once, so a graph would take longer to make than it saves.
    return AdversarialStep(stage, *models, *optimizers).compute


def assert_update(name, case, step, which, variables, gradients, gradient_rms):
    """Gradients of the recorded variables, and their values after the update."""
    for variable, expected in pieces(name, case, f"{step}_grad_selected.npy"):
        assert relative_rms(gradients[variables[variable].path], expected) < gradient_rms, (which, variable)
    for variable, expected in pieces(name, case, f"{step}_after_selected.npy"):
        # One update moves a value by the learning rate, 1e-4, at most.
        assert np.mean(np.abs(variables[variable].numpy() - expected) > 2e-6) < 0.01, (which, variable)


def assert_moving(run, variables, prefix, tolerance):
    for variable, expected in run["moving"].items():
        if variable.startswith(prefix):
            np.testing.assert_allclose(
                variables[variable].numpy()[: len(expected)], expected, rtol=tolerance, err_msg=variable
            )


def by_path(model, gradients):
    return {v.path: g.numpy() for v, g in zip(model.trainable_variables, gradients, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_three_updates(name, tmp_path):
    case, channels = golden.case(name, golden.NARCOMEY), CASES[name]
    low_res, high_res = images(case, channels)
    first = np.array(case["target_as_fed_first_pixels"])
    np.testing.assert_array_equal(high_res[0, 0, : len(first)], first)
    generator = narcomey2018.generator(channels)
    discriminator = narcomey2018.discriminator(high_res.shape[1:3], channels)
    golden.assign_formula(generator, case["variables_G"], *case["weights_G"])
    golden.assign_formula(discriminator, case["variables_D"], *case["weights_D"])
    variables = {
        "G": by_program_name(generator, case["variables_G"]),
        "D": by_program_name(discriminator, case["variables_D"]),
    }
    start, discriminated, adversarial = case["runs"]

    results, gradients = step_of(SRRESNET, generator)(low_res, high_res, tf.constant(0))
    np.testing.assert_allclose(results["generator_loss"], start["losses"]["mse_loss"], rtol=1e-5)
    assert_update(name, case, "step0_G_init", "G", variables["G"], by_path(generator, gradients["generator"]), 2e-3)
    assert_moving(start, variables["G"], "SRGAN_g", 1e-4)

    averages = [v.numpy() for v in generator.non_trainable_variables]
    generated = generator(low_res, training=True)
    for variable, value in zip(generator.non_trainable_variables, averages, strict=True):
        variable.assign(value)
    thinned = golden.array(name, "gen_out_step2_sub.npy", golden.NARCOMEY)
    every = high_res.shape[1] // thinned.shape[1]
    np.testing.assert_allclose(generated[:, ::every, ::every], thinned, atol=1e-4 * np.abs(thinned).max())

    results, gradients = step_of(SRGAN, generator, discriminator)(low_res, high_res, tf.constant(0))
    np.testing.assert_allclose(results["discriminator_loss"], discriminated["losses"]["d_loss"], rtol=1e-4)
    assert_update(name, case, "step1_D", "D", variables["D"], by_path(discriminator, gradients["discriminator"]), 2e-2)
    np.testing.assert_allclose(results["mean_squared_error"], adversarial["losses"]["mse_loss"], rtol=1e-5)
    np.testing.assert_allclose(results["adversarial_loss"], adversarial["losses"]["g_gan_loss"], rtol=1e-2)
    assert_update(name, case, "step2_G", "G", variables["G"], by_path(generator, gradients["generator"]), 2e-3)
    assert_moving(adversarial, variables["G"], "SRGAN_g", 1e-3)
    assert_moving(adversarial, variables["D"], "SRGAN_d", 1e-3)

    features = vgg19.load_features(write_npy(tmp_path / "vgg19.npy", formula_weights("chirp", 2.0)), channels)
    # Ours has the features of images (x, y), the program those of (row, column).
    target, output = (tf.transpose(image, (0, 2, 1, 3)) for image in (high_res, generated))
    feature_loss = 2e-6 * losses.feature_squared_error(features, target, output)
    np.testing.assert_allclose(feature_loss, adversarial["losses"]["vgg_loss"], rtol=1e-4)
    total = results["generator_loss"] + feature_loss
    np.testing.assert_allclose(total, adversarial["losses"]["g_loss"], rtol=1e-5)
    for image, file in ((target, "vgg_target_sub.npy"), (output, "vgg_predict_sub.npy")):
        expected = golden.array(name, file, golden.NARCOMEY)
        found = tf.transpose(features(image), (0, 2, 1, 3)).numpy()[..., ::32]
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
