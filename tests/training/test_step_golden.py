"""The adversarial step against recorded updates of the sanchez2018 program."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import golden
from tests.networks.test_sanchez2018_golden import UPSAMPLING, build_generator
from tf_mrsr import intensity, losses, recipe
from tf_mrsr.networks import sanchez2018
from tf_mrsr.training.step import AdversarialStep, Labels, make_optimizer

pytestmark = golden.needs_golden
CASES = ["train_nn_x2_fs8_rb2", "train_subpixel_x4_fs8_rb2"]


def program_recipe(case):
    return recipe.load(f"sanchez2018_srgan3d_x{case['factor']}_{UPSAMPLING[case['mode']]}_code")


def batches(case):
    shape = (8, case["img_width"], case["img_height"], case["img_depth"], 1)
    raw = np.maximum(0, 100 + 300 * golden.volume(shape, np.float64))[..., 0]
    degradation = program_recipe(case).training_degradation()
    for first in range(0, 8, case["patch_batch"]):
        patches = raw[first : first + case["patch_batch"]]
        high_res = np.stack([intensity.measure("half_max", patch).to_network(patch) for patch in patches])
        yield tuple(tf.constant(side[..., None], tf.float32) for side in (degradation.batch(high_res), high_res))


def build(case):
    generator = build_generator(case)
    discriminator = sanchez2018.discriminator((case["img_width"], case["img_height"], case["img_depth"]))
    golden.assign_formula(generator, case["variables_G"], *case["weights_G"])
    golden.assign_formula(discriminator, case["variables_D"], *case["weights_D"])
    stage = program_recipe(case).stages[0]
    optimizers = [make_optimizer(part.optimizer, 1) for part in (stage.generator, stage.discriminator)]
    optimizers[0].build(generator.trainable_variables)
    optimizers[1].build(discriminator.trainable_variables)
    return generator, discriminator, AdversarialStep(stage, generator, discriminator, *optimizers)


def labels_of(runs, iteration):
    discriminator, generator = (next(r for r in runs if r["iteration"] == iteration and r["step"] == s) for s in "DG")
    columns = [tf.constant(values, tf.float32)[:, None] for values in (*discriminator["labels"], *generator["labels"])]
    return Labels(*columns), discriminator, generator


def by_program_name(model, specs):
    """Variables by the program's names."""
    ordered = golden.variables_in_program_order(model)
    return {spec["name"]: variable for spec, variable in zip(specs, ordered, strict=True)}


def pieces(name, case, file):
    flat, start = golden.array(name, file).ravel(), 0
    for variable, shape in case["npy_layout"][file]:
        size = int(np.prod(shape))
        yield variable, flat[start : start + size].reshape(shape)
        start += size
    assert start == len(flat)


def relative_rms(actual, expected):
    return float(np.sqrt(np.mean((actual - expected) ** 2)) / np.sqrt(np.mean(expected**2)))


@pytest.mark.parametrize("name", CASES)
def test_four_updates(name):
    case = golden.case(name)
    conditioning = json.loads((golden.SHARED / "golden" / "conditioning.json").read_text())["train_steps"][
        f"imatge/{name}"
    ]
    without_gradient = conditioning["conv_biases_whose_true_gradient_is_zero_because_batch_norm_follows"]
    generator, discriminator, step = build(case)
    variables = {
        "G": by_program_name(generator, case["variables_G"]),
        "D": by_program_name(discriminator, case["variables_D"]),
    }
    update = tf.function(step.compute)

    for iteration, (low_res, high_res) in enumerate(batches(case)):
        labels, discriminator_run, generator_run = labels_of(case["runs"], iteration)
        if iteration == 0:
            np.testing.assert_allclose(low_res, golden.array(name, "k0_input.npy"), atol=1e-6)
            np.testing.assert_allclose(high_res, golden.array(name, "k0_target.npy"), atol=1e-6)
        results, gradients = update(low_res, high_res, tf.constant(iteration), labels)

        # After the first iteration the biases without a gradient have drifted apart, by processor in other ways.
        tolerance = 1e-5 if iteration == 0 else 1e-2
        recorded = generator_run["losses"]
        for ours, theirs in (
            ("generator_loss", recorded["g_loss"]),
            ("sum_squared_error", recorded["mse_loss"]),
            ("gradient_difference_sum", recorded["gd_loss"]),
            ("discriminator_loss", discriminator_run["losses"]["d_loss"]),
        ):
            np.testing.assert_allclose(results[ours], theirs, rtol=tolerance, err_msg=ours)
        if iteration > 0:
            continue
        np.testing.assert_allclose(results["adversarial_loss"], recorded["g_gan_loss"], rtol=1e-2)
        for which, models_variables, file in (
            ("generator", generator.trainable_variables, "gstep0_grad_G_all.npy"),
            ("discriminator", discriminator.trainable_variables, "dstep0_grad_D_selected.npy"),
        ):
            computed = {v.path: g.numpy() for v, g in zip(models_variables, gradients[which], strict=True)}
            for variable, expected in pieces(name, case, file):
                if variable not in without_gradient:
                    actual = computed[variables[variable[6].upper()][variable].path]
                    assert relative_rms(actual, expected) < 1e-2, variable
        for file, key in (("gstep0_after_G_all.npy", "G"), ("dstep0_after_D_selected.npy", "D")):
            for variable, expected in pieces(name, case, file):
                if variable not in without_gradient:
                    # One update moves a value by the learning rate, 1e-4, at most.
                    different = np.abs(variables[key][variable].numpy() - expected) > 2e-6
                    assert different.mean() < 0.01, variable
        # The generator's averages have moved twice: for its own update and for the discriminator's.
        np.testing.assert_allclose(
            golden.moving_averages(generator), golden.array(name, "moving_G_after_gstep0.npy"), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            golden.moving_averages(discriminator), golden.array(name, "moving_D_after_gstep0.npy"), rtol=5e-3, atol=5e-4
        )
    for file, key in (("final_after_G_selected.npy", "G"), ("final_after_D_selected.npy", "D")):
        for variable, expected in pieces(name, case, file):
            if variable not in without_gradient:
                assert np.abs(variables[key][variable].numpy() - expected).mean() < 4 * 1e-4 * 0.25, variable


@pytest.mark.parametrize("name", CASES)
def test_losses_of_fixed_inputs(name):
    fixed = golden.case(name)["fixed_input_losses"]
    target, output = golden.volume(fixed["shape"]), golden.volume2(fixed["shape"])
    mse = losses.sum_squared_error(target, output)
    gradient = losses.gradient_difference_sum(target, output)
    column = {key: tf.constant(fixed[key], tf.float32) for key in fixed if key.startswith(("logits", "labels"))}
    adversarial = 0.1 * losses.least_squares(column["logits_fake"], column["labels_g"])
    discriminator = losses.least_squares(column["logits_real"], column["labels_d_real"]) + losses.least_squares(
        column["logits_fake"], column["labels_d_fake"]
    )
    np.testing.assert_allclose(mse, fixed["mse_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, fixed["gd_loss"], rtol=1e-5)
    np.testing.assert_allclose(adversarial, fixed["g_gan_loss"], rtol=1e-5)
    np.testing.assert_allclose(discriminator, fixed["d_loss"], rtol=1e-5)
    np.testing.assert_allclose(mse + gradient + adversarial, fixed["g_loss"], rtol=1e-5)
