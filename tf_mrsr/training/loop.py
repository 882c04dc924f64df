"""The loop around the adversarial step: stages, devices, checkpoints, validation, logs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_mrsr import losses, model_folder, networks, run_folder
from tf_mrsr.errors import ModelError, RecipeError
from tf_mrsr.inference.models import build_generator, export_run, load_initial_weights, resolver_for
from tf_mrsr.networks.structure import stage, stage_count, up_to_stage
from tf_mrsr.networks.vgg19 import load_features
from tf_mrsr.pipeline import PatchPairs
from tf_mrsr.progress import Progress
from tf_mrsr.recipe import Recipe, Stage
from tf_mrsr.training import batch_norm
from tf_mrsr.training.logs import BoardLog, CsvLog
from tf_mrsr.training.step import AdversarialStep, make_optimizer
from tf_mrsr.training.stop import StopSignal
from tf_mrsr.training.validation import Validation

LOG_EVERY = 10
# A training whose loss has grown so many times has diverged, also where no number overflows.
_HOPELESS = 1000
_TOO_LARGE = (
    "the networks or a training step need more memory than there is; lower batch_size or patches.shape with --set, or, "
    "where tf-mrsr doctor finds it fast, give --precision mixed_bfloat16"
)


@dataclass(frozen=True)
class Settings:
    """How a run is carried out, apart from what the recipe says.

    Attributes:
        seed: of weights, patches and labels.
        steps: steps of each stage instead of the recipe's epochs, or None.
        precision: "float32" or "mixed_bfloat16".
        jit: "on", "off", or "auto" for XLA on GPUs only (on CPUs it is several times slower than oneDNN).
        checkpoint_minutes: time between checkpoints.
        vgg19: file with the weights of VGG19, for recipes whose loss needs them.
        start_from: folder of the trained model whose generator a new run begins with, or None for new weights.
    """

    seed: int = 0
    steps: int | None = None
    precision: str = "float32"
    jit: str = "auto"
    checkpoint_minutes: float = 5.0
    vgg19: Path | None = None
    start_from: Path | None = None


class Trainer:
    """Trains a recipe's networks: ``open`` a run folder, then ``run``.

    So that a seed gives the same weights, it sets the seeds of Python, NumPy and Keras, and makes TensorFlow's
    operations deterministic, for the whole process.

    Args:
        recipe: what to train.
        pairs: the training batches.
        validation: measures the generator on held-out scans, or None.
        settings: how.
        strategy: the devices; None for TensorFlow's default, one device.

    Raises:
        RecipeError: if networks, patches, batch and devices do not fit each other, or networks do not fit into memory.
        ModelError: if the weights of VGG19 are needed and cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        pairs: PatchPairs,
        validation: Validation | None,
        settings: Settings,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        keras.utils.set_random_seed(settings.seed)
        tf.config.experimental.enable_op_determinism()
        self._recipe, self._pairs, self._validation = recipe, pairs, validation
        self._settings = settings
        self._strategy = strategy or tf.distribute.get_strategy()
        if recipe.batch_size % self._strategy.num_replicas_in_sync:
            raise RecipeError(
                f"batch_size {recipe.batch_size} cannot be shared by {self._strategy.num_replicas_in_sync} devices"
            )
        self._stage_ends = np.cumsum(
            [settings.steps or s.epochs * pairs.steps_per_epoch for s in recipe.stages]
        ).tolist()
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best_psnr = tf.Variable(-np.inf, dtype=tf.float64, trainable=False)
        try:
            with self._strategy.scope():
                self._build()
            if validation is not None:
                template = build_generator(recipe)
                self._resolvers = [
                    resolver_for(recipe, up_to_stage(template, number), pairs.target_window) for number in self._stages
                ]
        except tf.errors.ResourceExhaustedError as error:
            raise RecipeError(_TOO_LARGE) from error

    def _build(self) -> None:
        recipe, precision = self._recipe, self._settings.precision
        self.generator = build_generator(recipe, precision)
        if self._settings.start_from is not None:
            load_initial_weights(self.generator, recipe, self._settings.start_from)
        staged = stage_count(self.generator) > 1
        # Numbers of the generator's own stages that the recipe's stages train.
        self._stages = [number if staged else 1 for number in range(1, len(recipe.stages) + 1)]
        self._parts = [stage(self.generator, number) for number in self._stages]
        self._stages_done = tf.Variable(0, dtype=tf.int32, trainable=False)
        self._discriminators: list[keras.Model | None] = []
        self._optimizers = []
        lengths = np.diff([0, *self._stage_ends])
        for spec, part, length in zip(recipe.stages, self._parts, lengths, strict=True):
            pair = [make_optimizer(spec.generator.optimizer, int(length), self._pairs.steps_per_epoch), None]
            pair[0].build(part.network.trainable_variables)
            discriminator = None
            if spec.discriminator is not None:
                former = next((d for d in self._discriminators if d is not None), None)
                discriminator = self._new_discriminator() if staged or former is None else former
                self._check_fits(discriminator, spec, part.network.output_shape[-1])
                pair[1] = make_optimizer(spec.discriminator.optimizer, int(length), self._pairs.steps_per_epoch)
                pair[1].build(discriminator.trainable_variables)
            self._discriminators.append(discriminator)
            self._optimizers.append(pair)
        self._content = dict(losses.CONTENT)
        if recipe.needs_vgg19:
            features = load_features(self._settings.vgg19, channels=self.generator.output_shape[-1])
            self._content["vgg19_features"] = partial(losses.feature_squared_error, features)
        discriminators = dict.fromkeys(d for d in self._discriminators if d is not None)
        self._networks = [self.generator, *discriminators]
        self._state = tf.train.Checkpoint(
            step=self._step,
            best_psnr=self._best_psnr,
            networks=self._networks,
            optimizers=[optimizer for pair in self._optimizers for optimizer in pair if optimizer is not None],
        )

    def _new_discriminator(self) -> keras.Model:
        network = self._recipe.network
        arguments = {"patch_shape": self._patch_shape, **network.discriminator}
        return networks.build(network.name, "discriminator", arguments, self._settings.precision)

    @property
    def _patch_shape(self) -> tuple[int, ...]:
        """Voxels of a high-resolution patch along the axes that the networks see."""
        return tuple(self._pairs.patch_shape[: len(self.generator.input_shape) - 2])

    def _check_fits(self, discriminator: keras.Model, spec: Stage, out_channels: int) -> None:
        conditional = spec.discriminator.conditional
        given = (*self._patch_shape, out_channels + conditional)
        if discriminator.input_shape[1:] != given:
            raise RecipeError(
                f"stage {spec.name}: the discriminator takes patches of {discriminator.input_shape[1:]} voxels and "
                f"channels, but would get {given}, discriminator.conditional being {str(conditional).lower()}; change "
                "that or network.discriminator"
            )

    def open(self, folder: str | Path) -> int:
        """Takes a run folder, which ``run_folder.create_run`` made, and goes back to its newest checkpoint, if there is
        one. To be called before ``run``.

        Returns:
            The number of steps done.

        Raises:
            ModelError: if it is no run folder, or the checkpoint is damaged or of other networks.
            RecipeError: if more steps are done than there are to do.
        """
        folder = Path(folder)
        model_folder.read_run(folder)
        self._folder = folder
        latest = run_folder.latest_checkpoint(folder / run_folder.STATE_FOLDER)
        self._states = tf.train.CheckpointManager(self._state, folder / run_folder.STATE_FOLDER, max_to_keep=2)
        self._generators = run_folder.generator_manager(folder, self.generator, self._stages_done)
        if latest is not None:
            try:
                self._state.restore(latest).assert_consumed()
            except run_folder.DAMAGED as error:
                raise ModelError(
                    f"{folder}: the newest checkpoint in {run_folder.STATE_FOLDER}/ is damaged or of another recipe; "
                    "put back a copy, or start a new run"
                ) from error
        elif self._settings.start_from is not None:
            run_folder.save_checkpoint(self._states, 0)  # else a run killed early would go on from new weights
        if int(self._step) > self.total_steps:
            raise RecipeError(f"{folder}: {int(self._step)} steps are done already, more than {self.total_steps}")
        return int(self._step)

    @property
    def total_steps(self) -> int:
        return self._stage_ends[-1]

    def run(self) -> None:
        """Trains from the current step to the end, and writes the generator and the SavedModel.

        Ctrl-C and SIGTERM end it after the running step, with a checkpoint of it.
        """
        first = int(self._step)
        self._log = CsvLog(self._folder / "log.csv", [*self._loss_names(), "steps_per_second"], first)
        self._validation_log = CsvLog(self._folder / "validation.csv", ["psnr", "ssim"], first)
        self._board = BoardLog(self._folder / "tensorboard")
        with Progress("training", self.total_steps, first) as progress, StopSignal() as stop:
            for number, end in enumerate(self._stage_ends):
                if int(self._step) < end:
                    try:
                        self._run_stage(number, end, progress, stop)
                    except tf.errors.OpError as error:
                        if self._pairs.error is not None:
                            raise self._pairs.error from error
                        if isinstance(error, tf.errors.ResourceExhaustedError):
                            raise RecipeError(_TOO_LARGE) from error
                        raise
            stop.act()
        export_run(self._folder)

    def _begin_stage(self, number: int) -> None:
        """The best epoch is one of this stage's; the generator's own earlier stages stand still at their best."""
        self._best_psnr.assign(-np.inf)
        if self._parts[number].context is not None:
            best = build_generator(self._recipe)
            run_folder.restore_generator(self._folder, best)
            earlier = self._stages[number] - 1
            up_to_stage(self.generator, earlier).set_weights(up_to_stage(best, earlier).get_weights())

    def _run_stage(self, number: int, end: int, progress: Progress, stop: StopSignal) -> None:
        if int(self._step) == (self._stage_ends[number - 1] if number else 0):
            self._begin_stage(number)
        spec = self._recipe.stages[number]
        update = self._step_function(number)
        dataset = self._strategy.experimental_distribute_dataset(self._pairs.dataset(int(self._step), end))
        per_epoch = self._pairs.steps_per_epoch
        pending: list[dict[str, tf.Tensor]] = []
        first_loss = None
        note, saved, mark = "", time.monotonic(), time.monotonic()
        for low_res, high_res in dataset:
            pending.append(update(low_res, high_res, self._step))
            step = int(self._step.assign_add(1))
            if step % LOG_EVERY == 0 or step == end:
                means = {name: float(np.mean([losses[name] for losses in pending])) for name in pending[0]}
                loss = means["generator_loss"]
                first_loss = max(loss, 1e-3) if first_loss is None else first_loss
                if not all(np.isfinite(value) for value in means.values()) or loss > _HOPELESS * first_loss:
                    raise self._diverged(step)
                means["steps_per_second"] = len(pending) / (time.monotonic() - mark)
                self._log.write(step, means)
                self._board.write(step, means)
                note = f"{spec.name}, loss {loss:.4g}, {means['steps_per_second']:.2f} steps/s"
                pending, mark = [], time.monotonic()
            if self._validation is not None and (step % per_epoch == 0 or step == end):
                began = time.monotonic()
                self._validate(number, step)
                mark += time.monotonic() - began
            stopping = stop.received is not None  # read once: a signal that comes later waits for the next step
            if stopping or step == end or time.monotonic() - saved >= 60 * self._settings.checkpoint_minutes:
                self._check_weights(step)
                if self._validation is None:
                    self._publish_generator(number)
                run_folder.save_checkpoint(self._states, step)
                saved = time.monotonic()
            progress.advance(note)
            if stopping:
                stop.act()

    def _of_network(self, patches: tf.Tensor) -> tf.Tensor:
        """Patches (batch, x, y, z, 1) as the networks take them: the z slices are the channels of a 2-D one."""
        return patches[..., 0] if len(self.generator.input_shape) == 4 else patches

    def _step_function(self, number: int) -> Callable[..., dict[str, tf.Tensor]]:
        context, network = self._parts[number]
        step = AdversarialStep(
            self._recipe.stages[number],
            network,
            self._discriminators[number],
            *self._optimizers[number],
            seed=self._settings.seed,
            replicas=self._strategy.num_replicas_in_sync,
            content=self._content,
        )

        def one_replica(low_res: tf.Tensor, high_res: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
            low_res, high_res = self._of_network(low_res), self._of_network(high_res)
            inputs = low_res if context is None else context(low_res, training=False)
            return step(inputs, high_res, number)

        jit = self._settings.jit == "on" or (
            self._settings.jit == "auto" and bool(tf.config.get_visible_devices("GPU"))
        )
        replica_step = tf.function(one_replica, autograph=False, jit_compile=True) if jit else one_replica

        @tf.function(autograph=False)
        def update(low_res: tf.Tensor, high_res: tf.Tensor, step_number: tf.Tensor) -> dict[str, tf.Tensor]:
            results = self._strategy.run(replica_step, args=(low_res, high_res, step_number))
            return {
                name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
                for name, value in results.items()
            }

        return update

    def _loss_names(self) -> list[str]:
        names = ["generator_loss"]
        for spec in self._recipe.stages:
            names += [term.loss for term in spec.generator.content]
            names += ["weight_regularization"] if spec.generator.weight_regularization > 0 else []
            names += ["adversarial_loss", "discriminator_loss"] if spec.discriminator is not None else []
        return list(dict.fromkeys(names))

    def _validate(self, number: int, step: int) -> None:
        self._check_weights(step)
        with self._inference_statistics(number):
            # One graph for the whole stage, and float32 as in prediction whatever the training's precision.
            resolver = self._resolvers[number]
            resolver.update(up_to_stage(self.generator, self._stages[number]))
            scores = self._validation.measure(resolver)
            self._validation_log.write(step, scores)
            self._board.write(step, scores)
            if scores["psnr"] > float(self._best_psnr):
                self._best_psnr.assign(scores["psnr"])
                self._save_generator(number, step)

    def _check_weights(self, step: int) -> None:
        weights = (variable for network in self._networks for variable in network.weights)
        if not all(np.all(np.isfinite(variable.numpy())) for variable in weights):
            raise self._diverged(step)

    def _diverged(self, step: int) -> ModelError:
        return ModelError(
            f"{self._folder}: the training diverged by step {step}, its losses or weights are NaN, infinite or far "
            "above those at first; lower the learning rates"
        )

    def _publish_generator(self, number: int) -> None:
        with self._inference_statistics(number):
            self._check_weights(int(self._step))
            self._save_generator(number, int(self._step))

    def _save_generator(self, number: int, step: int) -> None:
        self._stages_done.assign(self._stages[number])
        run_folder.save_checkpoint(self._generators, step)

    def _inference_statistics(self, number: int) -> AbstractContextManager[None]:
        """Puts the batch-norm statistics in place which the recipe predicts with."""
        if self._recipe.evaluation.batch_norm == "moving_average":
            return nullcontext()
        context, network = self._parts[number]
        per_epoch = self._pairs.steps_per_epoch
        first = (int(self._step) - 1) // per_epoch * per_epoch  # the running epoch, whose scans are at hand
        batches = (
            self._of_network(self._pairs.batch(step)[0])
            for step in range(first, first + min(batch_norm.BATCHES, per_epoch))
        )
        if context is not None:
            batches = (context(batch, training=False) for batch in batches)
        return batch_norm.re_estimated(network, batches)
