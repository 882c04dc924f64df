"""The adversarial step by hand, with models of one weight."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_mrsr import recipe
from tf_mrsr.training.step import AdversarialStep, make_optimizer


class Gain(keras.layers.Layer):
    """Multiplies by one weight called kernel."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def build(self, _):
        self.kernel = self.add_weight(shape=(), initializer=keras.initializers.Constant(self.value), name="kernel")

    def call(self, x):
        return self.kernel * x


def models(g, d):
    """G multiplies by g; D's logit is d times the mean of the patch."""
    low_res = keras.Input((2, 2, 2, 1))
    generator = keras.Model(low_res, Gain(g)(low_res))
    patch = keras.Input((2, 2, 2, 1))
    mean = keras.layers.GlobalAveragePooling3D()(patch)
    return generator, keras.Model(patch, Gain(d)(mean))


def stage(*overrides):
    base = recipe.load(
        "li2017_3dsrgan_r3",
        ["stages.0.generator.content=[{loss: mean_squared_error, weight: 1}]", "stages.0.epochs=1", *overrides],
    )
    return base.stages[0]


def run(chosen, g=0.5, d=2.0):
    generator, discriminator = models(g, d)
    optimizers = [keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.1)]
    optimizers[0].build(generator.trainable_variables)
    optimizers[1].build(discriminator.trainable_variables)
    low_res, high_res = tf.ones((1, 2, 2, 2, 1)), 3 * tf.ones((1, 2, 2, 2, 1))
    step = AdversarialStep(chosen, generator, discriminator, *optimizers)
    return step.compute(low_res, high_res, tf.constant(0)), discriminator


def log1p_exp(x):
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("joint", ["true", "false"])
def test_losses_order_and_gradients_by_hand(joint):
    """Labels of equations 4 and 5 of li2017: real 0, generated 1, the generator wants 0."""
    chosen = stage(f"stages.0.discriminator.joint_batch={joint}")
    (results, gradients), discriminator = run(chosen)
    g, d, penalty = 0.5, 2.0, 1e-5
    # Logits: real 3 d = 6, generated g d = 1. BCE with 0 is log(1 + e^x), with 1 log(1 + e^-x).
    assert results["discriminator_loss"].numpy() == pytest.approx(
        0.5 * (log1p_exp(3 * d) + log1p_exp(-g * d)), rel=1e-5
    )
    sigmoid = 1 / (1 + np.exp(-np.array([3 * d, g * d])))
    d_gradient = 0.5 * (3 * sigmoid[0] - g * (1 - sigmoid[1]))
    assert gradients["discriminator"][0].numpy() == pytest.approx(d_gradient, rel=1e-5)
    # The generator meets the updated discriminator.
    new_d = d - 0.1 * d_gradient
    assert discriminator.weights[0].numpy() == pytest.approx(new_d, rel=1e-5)
    assert results["mean_squared_error"].numpy() == pytest.approx((3 - g) ** 2)
    assert results["adversarial_loss"].numpy() == pytest.approx(0.1 * log1p_exp(g * new_d), rel=1e-5)
    assert results["weight_regularization"].numpy() == pytest.approx(penalty * g**2)
    parts = [results[k].numpy() for k in ("mean_squared_error", "adversarial_loss", "weight_regularization")]
    assert results["generator_loss"].numpy() == pytest.approx(sum(parts), rel=1e-6)
    expected = -2 * (3 - g) + 0.1 * new_d / (1 + np.exp(-g * new_d)) + penalty * 2 * g
    assert gradients["generator"][0].numpy() == pytest.approx(expected, rel=1e-5)


def test_joint_batch_shows_both_kinds_to_one_batch_norm():
    """With a batch norm at its end, D tells real from generated only if it sees both in one batch."""
    spread = {}
    for joint in ("true", "false"):
        generator, _ = models(0.5, 2.0)
        patch = keras.Input((2, 2, 2, 1))
        mean = keras.layers.GlobalAveragePooling3D()(patch)
        discriminator = keras.Model(patch, keras.layers.BatchNormalization()(mean))
        optimizers = [keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0)]
        chosen = stage(f"stages.0.discriminator.joint_batch={joint}")
        for optimizer, model in zip(optimizers, (generator, discriminator), strict=True):
            optimizer.build(model.trainable_variables)
        step = AdversarialStep(chosen, generator, discriminator, *optimizers)
        step(tf.ones((1, 2, 2, 2, 1)), 3 * tf.ones((1, 2, 2, 2, 1)), tf.constant(0))
        real, fake = step._scores(
            tf.zeros((1, 2, 2, 2, 1)), 3 * tf.ones((1, 2, 2, 2, 1)), 0.5 * tf.ones((1, 2, 2, 2, 1)), "logits"
        )
        spread[joint] = float(abs(real - fake)[0, 0])
    assert spread["true"] > 1.5
    assert spread["false"] < 1e-3


def test_replicas_share_what_is_averaged():
    generator, discriminator = models(0.5, 2.0)
    optimizers = [keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0)]
    for optimizer, model in zip(optimizers, (generator, discriminator), strict=True):
        optimizer.build(model.trainable_variables)
    arguments = (tf.ones((1, 2, 2, 2, 1)), 3 * tf.ones((1, 2, 2, 2, 1)), tf.constant(0))
    one = AdversarialStep(stage(), generator, discriminator, *optimizers)(*arguments)
    half = AdversarialStep(stage(), generator, discriminator, *optimizers, replicas=2)(*arguments)
    for name, value in one.items():
        assert half[name].numpy() == pytest.approx(value.numpy() / 2, rel=1e-5)


def test_learning_rates():
    spec = recipe.load("li2017_3dsrgan_r3").stages[0].generator.optimizer
    rate = make_optimizer(spec, steps=100, steps_per_epoch=10)._learning_rate
    assert [float(rate(step)) for step in (0, 9, 10, 25)] == pytest.approx([1e-2, 1e-2, 0.99e-2, 0.99**2 * 1e-2])
    spec = recipe.load("sanchez2018_srgan3d_x2_quick").stages[0].generator.optimizer
    rate = make_optimizer(spec, steps=100)._learning_rate
    assert [float(rate(step)) for step in (0, 50, 100)] == pytest.approx([1e-3, (1e-3 + 1e-5) / 2, 1e-5], rel=1e-3)
    spec = recipe.load("sanchez2018_srgan3d_x2_resize").stages[0].generator.optimizer
    assert float(make_optimizer(spec, steps=100).learning_rate) == pytest.approx(1e-5)


def test_long_gradients_are_shortened_as_one_vector():
    # Without memory of earlier steps and with an epsilon of 1, Adam moves by g / (|g| + 1), value by value.
    for clip_norm, moved in ((None, (3 / 4, 4 / 5)), (1.0, (0.6 / 1.6, 0.8 / 1.8)), (10.0, (3 / 4, 4 / 5))):
        optimizer = make_optimizer(recipe.Optimizer(1.0, 0.0, 0.0, epsilon=1.0, clip_norm=clip_norm), steps=1)
        weights = [keras.Variable(0.0), keras.Variable(0.0)]
        optimizer.apply([tf.constant(-3.0), tf.constant(-4.0)], weights)
        assert [float(w) for w in weights] == pytest.approx(moved)
