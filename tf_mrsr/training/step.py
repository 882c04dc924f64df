"""One update of generator and discriminator, in the order in which the papers and programs make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras
import tensorflow as tf

from tf_mrsr import losses
from tf_mrsr.recipe import Optimizer, Stage

_SEEDS_APART = 7919  # replicas draw labels of their own; a prime, so that neighbouring seeds of users do not meet


class Labels(NamedTuple):
    """What the adversarial losses compare scores with; each (batch, 1)."""

    real: tf.Tensor
    generated: tf.Tensor
    generator: tf.Tensor


def make_optimizer(spec: Optimizer, steps: int, steps_per_epoch: int = 1) -> keras.optimizers.Adam:
    """Adam as TensorFlow 1 has it: update lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon).

    Args:
        spec: the recipe's.
        steps: of the whole stage.
        steps_per_epoch: of an epoch.
    """
    rate = spec.learning_rate
    if spec.final_learning_rate is not None:
        rate = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=spec.final_learning_rate / rate)
    if spec.drop_halfway is not None:
        # Keras counts updates from 0 and keeps the first rate up to the boundary itself.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(
            [(steps + 1) // 2 - 1], [rate, rate * spec.drop_halfway]
        )
    if spec.decay_per_epoch is not None:
        rate = keras.optimizers.schedules.ExponentialDecay(
            rate, steps_per_epoch * spec.decay_epochs, spec.decay_per_epoch, staircase=True
        )
    return keras.optimizers.Adam(rate, spec.beta_1, spec.beta_2, spec.epsilon, global_clipnorm=spec.clip_norm)


class AdversarialStep:
    """One training step of a stage; call it inside ``tf.function`` and, for several devices, ``strategy.run``.

    The order, for a stage with a discriminator (without one, only the generator's content loss remains):

    1. G(low) in training mode, once; both updates see this output, for G does not change in between.
    2. D(high), then D(G(low)), in training mode, or both as one batch; discriminator loss; D is updated.
    3. D(G(low)), or again the joint batch, in training mode by the updated D; generator loss; G is updated.

    Args:
        stage: losses, weights and label bounds.
        generator, discriminator: the models; the discriminator returns logits.
        generator_optimizer, discriminator_optimizer: optimisers, built for the models' variables.
        seed: seed of random labels.
        content: content losses by name, each of (target, output).
        replicas: devices that share one batch; what is averaged over the batch is divided by it, since the
            optimisers sum the gradients of all replicas.
    """

    def __init__(
        self,
        stage: Stage,
        generator: keras.Model,
        discriminator: keras.Model | None,
        generator_optimizer: keras.optimizers.Optimizer,
        discriminator_optimizer: keras.optimizers.Optimizer | None,
        *,
        seed: int = 0,
        replicas: int = 1,
        content: Mapping[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = losses.CONTENT,
    ) -> None:
        self._stage = stage
        self._generator = generator
        self._discriminator = discriminator
        self._generator_optimizer = generator_optimizer
        self._discriminator_optimizer = discriminator_optimizer
        self._seed = seed
        self._replicas = replicas
        self._content = content
        self._averages = [
            (variable, layer.momentum)
            for layer in generator.layers
            if isinstance(layer, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        ]

    def __call__(
        self, low_res: tf.Tensor, high_res: tf.Tensor, step: tf.Tensor, labels: Labels | None = None
    ) -> dict[str, tf.Tensor]:
        """Updates the models once.

        Args:
            low_res: what the generator takes in, (batch, x, y, z, channel) in network range; of slices
                (batch, x, y, 1).
            high_res: what it should give, (batch, x, y, z, 1) in network range; of slices (batch, x, y, channel).
            step: number of the step, int; random labels depend on it and on the seed alone.
            labels: labels to use instead of drawn ones.

        Returns:
            The losses, scalars, weighted: "generator_loss" and what adds up to it, each content term by name,
            "adversarial_loss" and "weight_regularization", as far as the stage has them; with a discriminator its own
            "discriminator_loss".
        """
        results, _ = self.compute(low_res, high_res, step, labels)
        return results

    def compute(
        self, low_res: tf.Tensor, high_res: tf.Tensor, step: tf.Tensor, labels: Labels | None = None
    ) -> tuple[dict[str, tf.Tensor], dict[str, list[tf.Tensor]]]:
        """As a call, and also returns the gradients that were applied, by "generator" and "discriminator"."""
        before = self._read_averages()
        with tf.GradientTape() as generator_tape:
            generated = tf.cast(self._generator(low_res, training=True), tf.float32)
        if self._stage.generator.batch_norm_updates == 2:
            self._move_averages_again(before)

        results, gradients = {}, {}
        if self._discriminator is not None:
            labels = labels or self._draw_labels(tf.shape(low_res)[0], step)
            results["discriminator_loss"], gradients["discriminator"] = self._update_discriminator(
                low_res, high_res, generated, labels
            )
        generator_results, output_gradient = self._generator_losses(low_res, high_res, generated, labels)
        results |= generator_results
        variables = self._generator.trainable_variables
        gradients["generator"] = generator_tape.gradient(generated, variables, output_gradients=output_gradient)
        if self._stage.generator.weight_regularization > 0:
            self._add_weight_regularization(results, gradients["generator"], variables)
        self._generator_optimizer.apply(gradients["generator"], variables)
        return results, gradients

    def _update_discriminator(
        self, low_res: tf.Tensor, high_res: tf.Tensor, generated: tf.Tensor, labels: Labels
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        spec = self._stage.discriminator.adversarial
        loss_function = losses.ADVERSARIAL[spec.loss]
        variables = self._discriminator.trainable_variables
        with tf.GradientTape() as tape:
            real_scores, generated_scores = self._scores(low_res, high_res, tf.stop_gradient(generated), spec.scores)
            loss = loss_function(real_scores, labels.real) + loss_function(generated_scores, labels.generated)
            loss = spec.weight * loss / self._replicas
        gradients = tape.gradient(loss, variables)
        self._discriminator_optimizer.apply(gradients, variables)
        return loss, gradients

    def _generator_losses(
        self, low_res: tf.Tensor, high_res: tf.Tensor, generated: tf.Tensor, labels: Labels | None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The losses, and their derivative with respect to the generated patches."""
        spec, results = self._stage.generator, {}
        with tf.GradientTape() as tape:
            tape.watch(generated)
            for term in spec.content:
                loss = term.weight * self._content[term.loss](high_res, generated)
                results[term.loss] = loss if losses.grows_with_batch(term.loss) else loss / self._replicas
            if self._discriminator is not None:
                adversarial = spec.adversarial
                _, scores = self._scores(low_res, high_res, generated, adversarial.scores, real_needed=False)
                loss = adversarial.weight * losses.ADVERSARIAL[adversarial.loss](scores, labels.generator)
                results["adversarial_loss"] = loss / self._replicas
            total = tf.add_n(list(results.values()))
        return {"generator_loss": total, **results}, tape.gradient(total, generated)

    def _add_weight_regularization(
        self, results: dict[str, tf.Tensor], gradients: list[tf.Tensor], variables: list[keras.Variable]
    ) -> None:
        with tf.GradientTape() as tape:
            loss = losses.squared_weights(self._generator) * self._stage.generator.weight_regularization
            loss = loss / self._replicas
        penalties = tape.gradient(loss, variables)
        for i, penalty in enumerate(penalties):
            if penalty is not None:
                gradients[i] = gradients[i] + penalty
        results["weight_regularization"] = loss
        results["generator_loss"] += loss

    def _scores(
        self, low_res: tf.Tensor, high_res: tf.Tensor, generated: tf.Tensor, kind: str, *, real_needed: bool = True
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Scores of real and generated patches (batch, 1); the real ones are None where nobody needs them."""
        if self._stage.discriminator.conditional:
            source = low_res[..., :1]  # further channels are what earlier stages made of it
            high_res, generated = (tf.concat([source, patches], axis=-1) for patches in (high_res, generated))
        real = None
        if self._stage.discriminator.joint_batch:
            logits = self._discriminator(tf.concat([high_res, generated], axis=0), training=True)
            real, fake = tf.split(logits, 2)
        else:
            if real_needed:
                real = self._discriminator(high_res, training=True)
            fake = self._discriminator(generated, training=True)
        if kind == "logits":
            return real, fake
        return (None if real is None else tf.sigmoid(real)), tf.sigmoid(fake)

    def _draw_labels(self, count: tf.Tensor, step: tf.Tensor) -> Labels:
        discriminator, generator = self._stage.discriminator.adversarial, self._stage.generator.adversarial
        bounds = (discriminator.real_labels, discriminator.generated_labels, generator.labels)
        base = tf.cast(step, tf.int32) * len(bounds)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        seed = self._seed + _SEEDS_APART * tf.cast(replica, tf.int32)
        return Labels(*(losses.draw_labels(b, count, [seed, base + i]) for i, b in enumerate(bounds)))

    def _read_averages(self) -> list[tf.Tensor]:
        if self._stage.generator.batch_norm_updates == 1:
            return []
        return [tf.identity(variable.value) for variable, _ in self._averages]

    def _move_averages_again(self, before: list[tf.Tensor]) -> None:
        """A second forward pass would move each average by momentum times what the first one moved it."""
        for (variable, momentum), old in zip(self._averages, before, strict=True):
            variable.assign_add(momentum * (variable.value - old))
