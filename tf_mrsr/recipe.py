"""The single description of an experiment, read from YAML and checked whole before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tf_mrsr import baselines, intensity, limits, metrics
from tf_mrsr import degradation as degradations
from tf_mrsr.cohort import Contrasts
from tf_mrsr.degradation import Degradation
from tf_mrsr.errors import RecipeError

CONTENT_LOSSES = (
    "mean_squared_error",
    "sum_squared_error",
    "mean_absolute_error",
    "absolute_error_per_patch",
    "gradient_difference",
    "gradient_difference_sum",
    "gradient_difference_per_patch",
    "total_variation_z",
    "vgg19_features",
)
ADVERSARIAL_LOSSES = ("least_squares", "binary_cross_entropy")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)


def _weight(what: str, value: float) -> None:
    _require(0 <= value < math.inf, f"{what} must be 0 or more and finite, got {value}")


def _bounds(what: str, bounds: tuple[float, float]) -> None:
    _require(-math.inf < bounds[0] <= bounds[1] < math.inf, f"{what} must be two finite numbers in order, got {bounds}")


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    _require(value in known, f"{what} is {value!r}; expected one of {', '.join(known)}")


@dataclass(frozen=True)
class Network:
    """name: a module of ``tf_mrsr.networks``; generator, discriminator: arguments of its two builders, but for the
    discriminator's patch_shape, which is that of the patches.
    """

    name: str
    generator: dict[str, Any]
    discriminator: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            "patch_shape" not in self.discriminator,
            "network.discriminator.patch_shape is that of the patches; leave it out and set patches.shape",
        )


@dataclass(frozen=True)
class Intensity:
    """kind: a key of ``tf_mrsr.intensity.KINDS``; per: "volume" measures the whole low-resolution volume, as at
    prediction; "patch" measures each high-resolution patch, as the sanchez2018 program trains.

    target: "as_input" puts both sides of a pair into network range by the same two numbers; "own" measures the target
    by itself, as another contrast needs it. A new subject's target is not known, so predictions then get the mean of
    the training targets' numbers.
    """

    kind: str
    per: str = "volume"
    target: str = "as_input"

    def __post_init__(self) -> None:
        _one_of("intensity.target", self.target, ("as_input", "own"))
        _one_of("intensity.kind", self.kind, tuple(intensity.KINDS))
        _one_of("intensity.per", self.per, ("volume", "patch"))


@dataclass(frozen=True)
class Patches:
    """shape: high-resolution voxels (x, y, z), 0 for as many as the shortest scan has along that axis; kind: "grid"
    with a step, or "random" with a number per volume; shuffle: whether an epoch mixes volumes and patches or takes them
    in order; degrade: "volume" cuts both patches out of whole volumes, "patch" cuts the high-resolution patch and
    degrades that.
    """

    shape: tuple[int, int, int]
    kind: str = "grid"
    step: tuple[int, int, int] | None = None
    per_volume: int | None = None
    shuffle: bool = True
    degrade: str = "volume"

    def __post_init__(self) -> None:
        _one_of("patches.kind", self.kind, ("grid", "random"))
        _one_of("patches.degrade", self.degrade, ("volume", "patch"))
        if self.kind == "grid":
            _require(
                self.step is not None
                and all(s >= 1 or (s, n) == (0, 0) for s, n in zip(self.step, self.shape, strict=True)),
                f"patches.step is needed for a grid, 1 or more (0 where the shape is 0), got {self.step}",
            )
            _require(self.per_volume is None, "patches.per_volume belongs to patches.kind 'random'")
        else:
            _require(
                self.per_volume is not None and 0 < self.per_volume <= limits.MOST,
                f"patches.per_volume is needed for random patches, 1 to {limits.MOST}, got {self.per_volume}",
            )
            _require(self.step is None, "patches.step belongs to patches.kind 'grid'")


@dataclass(frozen=True)
class Augmentation:
    """Random variants of patches: flips, turns of cubic patches, gamma and scale between two bounds; then of their
    degradation: sigma and noise between two bounds. See ``tf_mrsr.augmentation``.
    """

    flips: bool = False
    turns: bool = False
    gamma: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    sigma: tuple[float, float] | None = None
    noise: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("gamma", "scale", "sigma"):
            bounds = getattr(self, name)
            _require(
                bounds is None or 0 < bounds[0] <= bounds[1] < math.inf,
                f"augmentation.{name} must be two finite numbers over 0 in order, got {bounds}",
            )
        _require(
            self.noise is None or 0 <= self.noise[0] <= self.noise[1] < 1,
            f"augmentation.noise must be two numbers from 0 to under 1 in order, got {self.noise}",
        )

    @property
    def of_patches(self) -> dict[str, Any]:
        """Arguments of ``tf_mrsr.augmentation.augment``."""
        return {"flips": self.flips, "turns": self.turns, "gamma": self.gamma, "scale": self.scale}

    @property
    def of_degradation(self) -> dict[str, Any]:
        """Arguments of ``tf_mrsr.augmentation.degrade``; empty if the degradation is always the same."""
        return {} if self.sigma is None and self.noise is None else {"sigma": self.sigma, "noise": self.noise}


@dataclass(frozen=True)
class Prediction:
    """kind: "whole" runs the network once over the volume (in slabs that give the same), "patches" over overlapping
    patches whose results are averaged; patch: voxels of a patch along each axis; stride: voxels from one to the next.
    """

    kind: str = "whole"
    patch: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        _one_of("prediction.kind", self.kind, ("whole", "patches"))
        if self.kind == "whole":
            _require(
                self.patch is None and self.stride is None,
                "prediction.patch and prediction.stride belong to prediction.kind 'patches'",
            )
        else:
            _require(
                self.patch is not None and self.stride is not None and 1 <= self.stride <= self.patch,
                "prediction.kind 'patches' needs a patch and a stride of 1 voxel up to the patch, "
                f"got {self.patch} and {self.stride}",
            )


@dataclass(frozen=True)
class Optimizer:
    """Adam. final_learning_rate: where given, the rate falls to it along half a cosine over the stage; decay_per_epoch:
    where given, the rate is multiplied by it after every epoch, or after each decay_epochs of them; drop_halfway: once,
    after half of the stage's steps; clip_norm: where given, longer gradients (all weights as one vector, on each device
    by itself) are shortened to it.
    """

    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    final_learning_rate: float | None = None
    decay_per_epoch: float | None = None
    decay_epochs: int = 1
    drop_halfway: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "clip_norm", *self._SCHEDULES):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, f"optimizer.{name} must be over 0 and finite, got {value}")
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name} must be 0 or more and under 1, got {value}")
        _require(
            sum(getattr(self, name) is not None for name in self._SCHEDULES) <= 1,
            f"optimizer.{', '.join(self._SCHEDULES)} exclude each other",
        )
        _require(
            self.final_learning_rate is None or self.final_learning_rate <= self.learning_rate,
            f"optimizer.final_learning_rate ({self.final_learning_rate}) must not be over learning_rate "
            f"({self.learning_rate}), from which the rate falls; set both",
        )
        _require(
            self.decay_epochs == 1 or (self.decay_epochs > 1 and self.decay_per_epoch is not None),
            f"optimizer.decay_epochs must be 1 or more and goes with decay_per_epoch, got {self.decay_epochs}",
        )

    @property
    def depends_on_length(self) -> bool:
        """Whether the rate at a step depends on how many steps the stage has."""
        return self.final_learning_rate is not None or self.drop_halfway is not None

    _SCHEDULES: ClassVar = ("final_learning_rate", "decay_per_epoch", "drop_halfway")


@dataclass(frozen=True)
class ContentTerm:
    """loss: a key of ``tf_mrsr.losses.CONTENT``, or "vgg19_features" (see ``tf_mrsr.losses.feature_squared_error``)."""

    loss: str
    weight: float

    def __post_init__(self) -> None:
        _one_of("content loss", self.loss, CONTENT_LOSSES)
        _weight("content weight", self.weight)


@dataclass(frozen=True)
class GeneratorAdversarial:
    """labels: bounds of the labels which the generator wants its outputs to get; scores: what the loss sees."""

    loss: str
    weight: float
    labels: tuple[float, float]
    scores: str = "probability"

    def __post_init__(self) -> None:
        _check_adversarial(self.loss, self.weight, self.scores)
        _bounds("adversarial.labels", self.labels)


@dataclass(frozen=True)
class DiscriminatorAdversarial:
    """real_labels, generated_labels: bounds (low, high) of labels drawn uniformly for each patch."""

    loss: str
    weight: float
    real_labels: tuple[float, float]
    generated_labels: tuple[float, float]
    scores: str = "probability"

    def __post_init__(self) -> None:
        _check_adversarial(self.loss, self.weight, self.scores)
        _bounds("adversarial.real_labels", self.real_labels)
        _bounds("adversarial.generated_labels", self.generated_labels)


def _check_adversarial(loss: str, weight: float, scores: str) -> None:
    _one_of("adversarial loss", loss, ADVERSARIAL_LOSSES)
    _one_of("adversarial.scores", scores, ("probability", "logits"))
    _weight("adversarial weight", weight)
    _require(
        loss != "binary_cross_entropy" or scores == "logits",
        "binary_cross_entropy takes the logits: set adversarial.scores to logits",
    )


@dataclass(frozen=True)
class GeneratorTraining:
    """batch_norm_updates: how often one step moves the generator's batch-norm averages (the sanchez2018 program runs
    the generator once for each of its two updates, so twice); weight_regularization: weight of the sum of squared
    kernels.
    """

    optimizer: Optimizer
    content: tuple[ContentTerm, ...]
    adversarial: GeneratorAdversarial | None = None
    batch_norm_updates: int = 1
    weight_regularization: float = 0.0

    def __post_init__(self) -> None:
        _require(len(self.content) > 0, "generator.content needs one loss or more")
        names = [term.loss for term in self.content]
        twice = next((name for name in names if names.count(name) > 1), None)
        _require(twice is None, f"generator.content has {twice} twice; give it once, with the sum of the weights")
        _weight("generator.weight_regularization", self.weight_regularization)
        _require(self.batch_norm_updates in (1, 2), "generator.batch_norm_updates must be 1 or 2")


@dataclass(frozen=True)
class DiscriminatorTraining:
    """The discriminator is updated first in every step, the generator then meets the updated one. joint_batch: real and
    generated patches go through it as one batch, so that its batch norms see both. conditional: it sees the generator's
    input as well, as the first of two channels.
    """

    optimizer: Optimizer
    adversarial: DiscriminatorAdversarial
    joint_batch: bool = False
    conditional: bool = False


@dataclass(frozen=True)
class Stage:
    """One part of the training with optimisers of its own. Where the generator itself has stages (auto-context), each
    part trains one of them, on the output of those before, with a discriminator of its own.
    """

    name: str
    epochs: int
    generator: GeneratorTraining
    discriminator: DiscriminatorTraining | None = None

    def __post_init__(self) -> None:
        _require(
            0 < self.epochs <= limits.MOST,
            f"stage {self.name}: epochs must be 1 or more, up to {limits.MOST}, got {self.epochs}",
        )
        _require(
            (self.discriminator is None) == (self.generator.adversarial is None),
            f"stage {self.name}: a discriminator and generator.adversarial go together; give both or neither",
        )


@dataclass(frozen=True)
class Evaluation:
    """protocol: a key of ``tf_mrsr.metrics.PROTOCOLS``; degradation: where testing degrades otherwise than training;
    batch_norm: "moving_average", or "re_estimated" over training patches before validation and export; baselines: some
    of ``tf_mrsr.baselines.NAMES``.
    """

    protocol: str = "masked"
    degradation: dict[str, Any] | None = None
    batch_norm: str = "moving_average"
    baselines: tuple[str, ...] = ("nearest", "linear", "cubic")

    def __post_init__(self) -> None:
        _require(len(self.baselines) > 0, "evaluation.baselines needs one method or more")
        for name in self.baselines:
            _one_of("evaluation.baselines", name, baselines.NAMES)
        _one_of("evaluation.protocol", self.protocol, tuple(metrics.PROTOCOLS))
        _one_of("evaluation.batch_norm", self.batch_norm, ("moving_average", "re_estimated"))


@dataclass(frozen=True)
class Departure:
    """Where the recipe does otherwise than its source, or had to choose because the source is silent.

    values: the recipe's values that it is about, by their place in the file ("patches.step", "stages.0.epochs").
    """

    what: str
    source: str
    here: str
    why: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """An experiment. ``reported`` holds the paper's numbers: method -> metric -> value; ``changes`` what was changed of
    the file by overrides.

    axes: "stored" works on the array axes as they are; "slices_last" brings the thick axis last (see
    ``tf_mrsr.geometry.slices_last``), and results back; slices that a network takes one by one keep their in-plane axes
    as stored. A degradation's single factor then is along the thick axis alone.
    """

    name: str
    paper: str
    network: Network
    degradation: dict[str, Any]
    intensity: Intensity
    patches: Patches
    batch_size: int
    stages: tuple[Stage, ...]
    axes: str = "stored"
    contrasts: Contrasts | None = None
    prediction: Prediction = field(default_factory=Prediction)
    augmentation: Augmentation | None = None
    evaluation: Evaluation = field(default_factory=Evaluation)
    reported: dict[str, Any] = field(default_factory=dict)
    departures: tuple[Departure, ...] = ()
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"batch_size must be 1 or more, got {self.batch_size}")
        _require(len(self.stages) > 0, "stages: one or more are needed")
        _one_of("axes", self.axes, ("stored", "slices_last"))
        factors = self.training_degradation().factors
        scale_factor = self.network.generator.get("scale_factor")
        _require(
            scale_factor is None or factors == self._factors(scale_factor),
            f"network.generator.scale_factor is {scale_factor} but the degradation's factors are {factors}",
        )
        _require(
            self.testing_degradation().factors == factors,
            "evaluation.degradation must have the same factor as the training's degradation",
        )
        _require(
            self.testing_degradation().network_grid_map() == self.training_degradation().network_grid_map(),
            "evaluation.degradation must leave voxels where the training's does, which the network learns: in training "
            f"{self.training_degradation().alignment}, in evaluation {self.testing_degradation().alignment}",
        )
        _require(
            self.patches.degrade == "patch" or not isinstance(self.training_degradation(), degradations.GaussianZoom),
            "degradation.kind 'gaussian_zoom' needs patches.degrade 'patch': over a whole volume, it stretches more "
            "than the network's factor can follow",
        )
        _require(
            all(p % f == 0 for p, f in zip(self.patches.shape, factors, strict=True)),
            f"patches.shape {self.patches.shape} must be divisible by the factors {factors}",
        )
        _require(
            self.patches.degrade == "patch" or self.intensity.per == "volume",
            "intensity.per 'patch' needs patches.degrade 'patch'",
        )
        self._check_augmentation()
        self._check_slices()
        self._check_contrasts()
        for departure in self.departures:
            for value in departure.values:
                _require(self.has(value), f"departure {departure.what!r}: the recipe has no {value!r}")

    def has(self, value: str) -> bool:
        """Whether there is a value at a place as departures name it ("patches.step", "stages.0.epochs")."""
        parts = value.split(".")
        known = (key.split(".") for key in _places(_plain(dataclasses.asdict(self))))
        return any(key[: len(parts)] == parts for key in known)

    @property
    def needs_vgg19(self) -> bool:
        return self._uses("vgg19_features")

    def _uses(self, loss: str) -> bool:
        return any(term.loss == loss for stage in self.stages for term in stage.generator.content)

    def _check_augmentation(self) -> None:
        spec = self.augmentation
        if spec is None:
            return
        _require(
            self.patches.degrade == "patch",
            "augmentation needs patches.degrade 'patch', so that the degradation sees the varied patch",
        )
        shape, factors = self.patches.shape, self.training_degradation().factors
        _require(
            not spec.turns or (len(set(shape)) == 1 and shape[0] > 0 and len(set(factors)) == 1),
            f"augmentation.turns needs cubic patches and one factor for all axes, got {shape} and {factors}",
        )
        for name in ("gamma", "scale", "noise"):
            _require(
                getattr(spec, name) is None or self.intensity.kind == "half_max",
                f"augmentation.{name} needs intensity.kind 'half_max', which says where 0 and the maximum are",
            )
        _require(
            spec.sigma is None or self.degradation["kind"] == "gaussian_decimation",
            f"augmentation.sigma needs degradation.kind 'gaussian_decimation', got {self.degradation['kind']!r}",
        )
        for bound in spec.sigma or ():
            self._degradation({**self.degradation, "sigma": bound}, "augmentation")

    def _check_slices(self) -> None:
        degradation, shape = self.training_degradation(), self.patches.shape
        if not degradation.by_slice:
            _require(
                all(n == 0 or n >= max(4, 2 * f) for n, f in zip(shape, degradation.factors, strict=True)),
                "patches.shape must be 4 voxels or more along each axis and two low-resolution ones, or 0 for the whole"
                f" axis, got {shape} for factors {degradation.factors}",
            )
            _require(not self.needs_vgg19, "content loss 'vgg19_features' needs degradation.kind 'matched_slices'")
            return
        depth = degradation.factors[2]
        _require(
            all(n == 0 or n >= 4 for n in shape[:2]) and shape[2] == depth,
            f"patches.shape must be 4 voxels or more, or 0 for the whole axis, within slices and {depth} along them, "
            f"got {shape}",
        )
        _require(self.patches.degrade == "volume", "degradation.kind 'matched_slices' works by volume only")
        _require(
            depth > 1 or not self._uses("total_variation_z"),
            "content loss 'total_variation_z' compares neighbouring slices, but the network gives one at a time; leave "
            "it out",
        )
        _require(self.axes == "slices_last", "degradation.kind 'matched_slices' needs axes slices_last")
        _require(
            degradation.changes_grid or self.evaluation.baselines == ("nearest",),
            "evaluation.baselines: where the grid stays as it is it is [nearest], the thick slice itself; got "
            f"{list(self.evaluation.baselines)}",
        )

    def _check_contrasts(self) -> None:
        synthesis = isinstance(self.training_degradation(), degradations.OtherContrast)
        _require(
            synthesis == (self.contrasts is not None),
            "contrasts and degradation.kind 'other_contrast' go together; give both or neither",
        )
        _require(
            all((name == baselines.IDENTITY) == synthesis for name in self.evaluation.baselines),
            f"evaluation.baselines: between contrasts it is [{baselines.IDENTITY}], where nothing is interpolated, and "
            f"{baselines.IDENTITY} is for nothing else; got {list(self.evaluation.baselines)}",
        )
        conditional = any(stage.discriminator and stage.discriminator.conditional for stage in self.stages)
        for what, needs in (
            ("intensity.target 'own'", self.intensity.target == "own"),
            ("discriminator.conditional", conditional),
            ("prediction.kind 'patches'", self.prediction.kind == "patches"),
        ):
            _require(synthesis or not needs, f"{what} needs degradation.kind 'other_contrast'")
        _require(
            not synthesis or self.patches.degrade == "volume", "degradation.kind 'other_contrast' works by volume only"
        )

    def training_degradation(self) -> Degradation:
        return self._degradation(self.degradation, "degradation")

    def testing_degradation(self) -> Degradation:
        if not self.evaluation.degradation:
            return self.training_degradation()
        return self._degradation(self.evaluation.degradation, "evaluation.degradation")

    def _factors(self, factor: Any) -> tuple[Any, ...]:
        """Factors along (x, y, z) of a single factor."""
        return (1, 1, factor) if self.axes == "slices_last" else (factor,) * 3

    def _degradation(self, spec: Mapping[str, Any], place: str) -> Degradation:
        spec = dict(spec)
        kind = spec.pop("kind", None)
        _one_of(f"{place}.kind", kind, tuple(degradations.KINDS))
        kind_class = degradations.KINDS[kind]
        factor = spec.pop("factor", None if kind_class.changes_grid else 1)
        _require(factor is not None, f"{place}.factor is missing")
        known = [f.name for f in dataclasses.fields(kind_class) if f.name != "factors"]
        hints = typing.get_type_hints(kind_class)
        for key, value in spec.items():
            if key not in known:
                raise RecipeError(f"unknown key {place}.{key}{_nearest(key, ['kind', 'factor', *known])}")
            spec[key] = _scalar(hints[key], value, f"{place}.{key}")
        return kind_class(tuple(factor) if isinstance(factor, (list, tuple)) else self._factors(factor), **spec)

    def to_yaml(self) -> str:
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False, allow_unicode=True)


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by name, from those that come with the package, or by path.

    Args:
        name_or_path: for instance "sanchez2018_srgan3d_x2_subpixel_nn" or "my/recipe.yaml".
        overrides: "key.key=value" each, the value in YAML; list items by their number ("stages.0.epochs=3"). What they
            remove is left out of the departures' values.

    Raises:
        RecipeError: if it cannot be found or read, or anything in it, as written or after the overrides, is unknown,
            missing or does not fit.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = recipe_directory() / f"{name_or_path}.yaml"
        if not path.exists():
            raise RecipeError(f"unknown recipe {str(name_or_path)!r}{_nearest(str(name_or_path), names())}")
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    try:
        written = from_mapping(content)
        return _changed(written, content, overrides) if overrides else written
    except RecipeError as error:
        raise RecipeError(f"{name_or_path}: {error}") from error


def _changed(written: Recipe, content: dict[str, Any], overrides: Sequence[str]) -> Recipe:
    """The recipe of ``content``, as ``written``, after overrides."""
    for override in overrides:
        _override(content, override)
    departures = build(tuple[Departure, ...], content.pop("departures", ()), "departures")
    changed = from_mapping(content)
    kept = []
    for departure in departures:
        values = tuple(value for value in departure.values if changed.has(value) or not written.has(value))
        kept.append(dataclasses.replace(departure, values=values))
    return dataclasses.replace(changed, departures=tuple(kept), changes=(*changed.changes, *overrides))


def from_mapping(content: Mapping[str, Any]) -> Recipe:
    """The recipe that a mapping describes; see ``load`` for what is raised."""
    return build(Recipe, content)


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in recipe_directory().glob("*.yaml"))


def recipe_directory() -> Path:
    installed = Path(__file__).parent / "_recipes"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "train"


_MERGE = "tag:yaml.org,2002:merge"  # <<, whose keys the plain loader takes in where the mapping itself has none


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key may stand only once; the plain loader silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # the plain loader refuses what is none
        keys = [self.construct_object(key, deep=True) for key, _ in pairs if key.tag != _MERGE]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """What a text in YAML says; a key that stands twice is refused.

    Raises:
        yaml.YAMLError, ValueError: if it is not valid.
        RecursionError: if it is nested too deep, or an alias stands within its own anchor.
    """
    return _plain(yaml.load(text, _StrictLoader))


def _nearest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known are {', '.join(known)}"


def _override(content: Any, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"--set {override}: expected key=value")
    try:
        override.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"--set {override!a}: not in UTF-8") from error
    *parents, last = key.split(".")
    place, kind = content, Recipe
    try:
        for part in parents:
            kind = _part_of(kind, part)
            if isinstance(place, dict) and place.get(part) is None and kind is not None:
                place[part] = {}  # an optional section that the file leaves out
            place = place[int(part)] if isinstance(place, list) else place[part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise RecipeError(f"--set {override}: the recipe has no {key!r}") from error
    try:
        value = parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"--set {override}: {text!r} is not valid YAML") from error
    try:
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    except (IndexError, ValueError, TypeError) as error:
        raise RecipeError(f"--set {override}: the recipe has no {key!r}") from error


def _part_of(kind: Any, part: str) -> Any:
    """The annotation of a field of a dataclass, or of an item of a tuple; None where ``kind`` has no such part."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    if dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind).get(part)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def build(kind: Any, value: Any, where: str = "") -> Any:
    """``value``, as YAML or JSON gives it, as an instance of the annotation ``kind``, strictly.

    Raises:
        RecipeError: if anything in it is unknown, missing or of another type; ``where`` is its place.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return build(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is dict:
        _require(isinstance(value, Mapping), f"{where} must be a mapping, got {value!r}")
        return {str(k): build(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), f"{where} must be a list, got {value!r}")
        if arguments[-1] is not Ellipsis:
            _require(len(value) == len(arguments), f"{where} must have {len(arguments)} items, got {value!r}")
        return tuple(build(arguments[0], item, f"{where}.{i}") for i, item in enumerate(value))
    return _scalar(kind, value, where)


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    _require(isinstance(value, Mapping), f"{where or 'a ' + kind.__name__.lower()} must be a mapping, got {value!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in known:
            raise RecipeError(f"unknown key {prefix}{key}{_nearest(str(key), list(known))}")
    for name, spec in known.items():
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        _require(optional or name in value, f"{prefix}{name} is missing")
    return kind(**{key: build(hints[key], item, f"{prefix}{key}") for key, item in value.items()})


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-5, without a dot, as a string.
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise RecipeError(f"{where} must be a number, got {value!r}") from None
    matches = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _require(matches, f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def _places(value: Any, place: str = "") -> list[str]:
    """Where the values of nested mappings and lists stand: "patches.step", "stages.0.epochs"."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [inner for key, item in items for inner in _places(item, f"{place}.{key}" if place else str(key))]
    return below or [place]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
