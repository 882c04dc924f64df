"""tf.data batches of paired patches. The order of the steps, from file to batch, lives here and nowhere else:

read - degrade - measure intensity - cut both patches - to network range

or, where the recipe degrades patches:

read - cut the high-resolution patch - measure - to network range - vary - degrade (at random, if asked for)

Every batch is a pure function of (scans, recipe, seed, step). A run can therefore go on at any step without any
iterator's state, and gives the batches that an uninterrupted run would have given.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_mrsr import intensity, patches
from tf_mrsr.augmentation import augment, degrade
from tf_mrsr.card import spacing_range
from tf_mrsr.cohort import Scan, read_scan
from tf_mrsr.errors import DataError, MrsrError, VolumeError
from tf_mrsr.limits import DEFAULT_CACHE
from tf_mrsr.pairs import read_pair
from tf_mrsr.recipe import Recipe

# An epoch mixes the patches of this many scans at a time, so that few are read twice. It must not depend on the
# machine: batches are a function of it.
SCANS_PER_GROUP = 16
# What else is drawn for a patch, apart from its place.
_VARIANT, _DEGRADATION = 1, 2


class Pair(NamedTuple):
    """A scan as training needs it: both volumes (x, y, z) in scan intensities, their windows, and the intensity above
    which a voxel is taken for tissue (the mean); and the high-resolution voxels' spacing in mm.

    ``low_res`` and the windows are None where patches are degraded and measured one by one.
    """

    high_res: np.ndarray
    low_res: np.ndarray | None
    low_window: intensity.Window | None
    high_window: intensity.Window | None
    tissue: float
    spacing_mm: tuple[float, float, float]

    @property
    def nbytes(self) -> int:
        return self.high_res.nbytes + (0 if self.low_res is None else self.low_res.nbytes)


class PatchPairs:
    """Batches of (low_res, high_res) patches from scans.

    Every scan is read once at construction, so that a damaged file is found before the first step.

    Args:
        scans: high-resolution scans, or real pairs.
        recipe: says how patches are cut, degraded and scaled.
        seed: seed of the order and of the random places.
        cache_bytes: how much memory decoded scans may take; those that do not fit are read again when their turn comes.
        nan: see ``tf_mrsr.volume.read_volume``.
        on_bad_scan: called with the error of a scan that cannot be used, which is then left out; None raises instead.
        on_scan_read: called after each scan that was read.

    Attributes:
        patch_shape: voxels of a high-resolution patch (x, y, z); the recipe's, with whole axes resolved.
        target_window: the mean window of the high-resolution scans where the recipe measures them by themselves, else
            None.
        spacing_range: smallest and largest voxel spacing of the high-resolution scans, see ``tf_mrsr.card``.
        error: why a batch of ``dataset`` could not be made, once that has happened.

    Raises:
        VolumeError, DataError: if a scan cannot be used and ``on_bad_scan`` is None, or none can.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        *,
        seed: int,
        cache_bytes: int = DEFAULT_CACHE,
        nan: str = "refuse",
        on_bad_scan: Callable[[Exception], None] | None = None,
        on_scan_read: Callable[[], None] = lambda: None,
    ) -> None:
        self._recipe = recipe
        self._degradation = recipe.training_degradation()
        self._seed = seed
        self._nan = nan
        self._cache: OrderedDict[Scan, Pair] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._scans: list[Scan] = []
        self._shapes: dict[Scan, tuple[int, ...]] = {}
        self.error: MrsrError | None = None
        shapes, windows, spacings = [], [], []
        for scan in scans:
            try:
                pair = self._pair(scan)
                self._check_fits(scan.high_res, pair.high_res.shape)
            except (VolumeError, DataError) as error:
                if on_bad_scan is None:
                    raise
                on_bad_scan(error)
                continue
            self._scans.append(scan)
            shapes.append(pair.high_res.shape)
            windows.append(pair.high_window)
            spacings.append(pair.spacing_mm)
            on_scan_read()
        if not self._scans:
            raise DataError("none of the scans can be used for training")
        self.spacing_range = spacing_range(spacings)
        self.patch_shape = self._whole_axes(shapes)
        self.target_window = None
        if recipe.intensity.target == "own":
            self.target_window = intensity.Window(*(float(np.mean(side)) for side in zip(*windows, strict=True)))
        self._origins = [self._grid(shape) for shape in shapes]
        self._orders: dict[int, list[tuple[int, int]]] = {}
        if self.steps_per_epoch < 1:
            raise DataError(f"the scans give fewer patches than one batch of {recipe.batch_size}; lower batch_size")

    @property
    def scans(self) -> list[Scan]:
        return list(self._scans)

    @property
    def steps_per_epoch(self) -> int:
        return sum(map(len, self._origins)) // self._recipe.batch_size

    def dataset(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """Batches of steps ``first_step`` ... ``last_step - 1``: low_res and high_res, (batch, x, y, z, 1), float32.

        Networks of slices take and give the slices as channels, (batch, x, y, z).
        """
        size = self._recipe.batch_size
        shapes = [(size, *shape, 1) for shape in (self._low_patch_shape, self.patch_shape)]

        def load(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            arrays = tf.numpy_function(self._batch_or_error, [step], (tf.float32, tf.float32), stateful=False)
            return tuple(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))

        dataset = tf.data.Dataset.range(first_step, last_step)
        return dataset.map(load, num_parallel_calls=2, deterministic=True).prefetch(2)

    def _batch_or_error(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self.batch(step)
        except MrsrError as error:
            self.error = error  # TensorFlow passes on only its text
            raise

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The patches of one step: low_res and high_res, (batch, x, y, z, 1), float32, in network range."""
        step, size = int(step), self._recipe.batch_size
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        # In order, an epoch goes on where the last one ended, so that what does not fill a batch has its turn as well.
        first = (place if self._recipe.patches.shuffle else step) * size
        chosen = [order[(first + i) % len(order)] for i in range(size)]
        if self._recipe.patches.degrade == "volume":
            pairs = [self._cut_pair(epoch, *item) for item in chosen]
            low_res, high_res = (np.stack(side) for side in zip(*pairs, strict=True))
        else:
            high_res = np.stack([self._cut_high(epoch, *item) for item in chosen])
            low_res = self._degrade(epoch, chosen, high_res)
        return low_res[..., None].astype(np.float32), high_res[..., None].astype(np.float32)

    def _cut_pair(self, epoch: int, scan: int, patch: int) -> tuple[np.ndarray, np.ndarray]:
        pair, origin = self._place(epoch, scan, patch)
        factors = self._degradation.factors
        low_origin = [o // f for o, f in zip(origin, factors, strict=True)]
        low_res = patches.cut(pair.low_res, low_origin, self._low_patch_shape)
        high_res = patches.cut(pair.high_res, origin, self.patch_shape)
        return pair.low_window.to_network(low_res), pair.high_window.to_network(high_res)

    def _cut_high(self, epoch: int, scan: int, patch: int) -> np.ndarray:
        pair, origin = self._place(epoch, scan, patch)
        high_res = patches.cut(pair.high_res, origin, self.patch_shape)
        window = pair.high_window or intensity.measure(self._recipe.intensity.kind, high_res)
        high_res = window.to_network(high_res)
        if self._recipe.augmentation is None:
            return high_res
        rng = np.random.default_rng((self._seed, epoch, scan, patch, _VARIANT))
        return augment(high_res, rng, **self._recipe.augmentation.of_patches)

    def _degrade(self, epoch: int, chosen: Sequence[tuple[int, int]], high_res: np.ndarray) -> np.ndarray:
        variation = self._recipe.augmentation and self._recipe.augmentation.of_degradation
        if not variation:
            return self._degradation.batch(high_res)
        rngs = [np.random.default_rng((self._seed, epoch, *item, _DEGRADATION)) for item in chosen]
        low_res = [degrade(p, self._degradation, rng, **variation) for p, rng in zip(high_res, rngs, strict=True)]
        return np.stack(low_res)

    def _place(self, epoch: int, scan: int, patch: int) -> tuple[Pair, patches.Index3]:
        pair = self._pair(self._scans[scan])
        if self._recipe.patches.kind == "grid":
            return pair, self._origins[scan][patch]
        rng = np.random.default_rng((self._seed, epoch, scan, patch))
        return pair, patches.random_origin(pair.high_res, pair.tissue, self.patch_shape, self._degradation.factors, rng)

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """(scan, patch) in the order of an epoch."""
        order = self._orders.get(epoch)
        if order is None:
            order = self._make_order(epoch)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return order

    def _make_order(self, epoch: int) -> list[tuple[int, int]]:
        scans = list(range(len(self._scans)))
        if not self._recipe.patches.shuffle:
            return [(scan, patch) for scan in scans for patch in range(len(self._origins[scan]))]
        rng = np.random.default_rng((self._seed, epoch))
        rng.shuffle(scans)
        order = []
        for start in range(0, len(scans), SCANS_PER_GROUP):
            group = scans[start : start + SCANS_PER_GROUP]
            items = [(scan, patch) for scan in group for patch in range(len(self._origins[scan]))]
            rng.shuffle(items)
            order += items
        return order

    @property
    def _low_patch_shape(self) -> patches.Index3:
        return self._degradation.low_shape(self.patch_shape)

    def _whole_axes(self, shapes: Sequence[Sequence[int]]) -> patches.Index3:
        """The patch shape with 0 replaced by what the shortest scan has, in whole low-resolution voxels."""
        shortest = np.min(shapes, axis=0)
        return tuple(
            p or int(n) // f * f
            for p, n, f in zip(self._recipe.patches.shape, shortest, self._degradation.factors, strict=True)
        )

    def _grid(self, shape: Sequence[int]) -> list[patches.Index3]:
        spec = self._recipe.patches
        if spec.kind == "random":
            return [(0, 0, 0)] * spec.per_volume  # the places are drawn when the patches are cut
        factors = self._degradation.factors if spec.degrade == "volume" else (1, 1, 1)
        step = [s or p for s, p in zip(spec.step, self.patch_shape, strict=True)]
        return patches.grid_origins(shape, self.patch_shape, step, factors)

    def _pair(self, scan: Scan) -> Pair:
        with self._lock:
            if scan in self._cache:
                self._cache.move_to_end(scan)
                return self._cache[scan]
        pair = self._read_pair(scan)
        shape = pair.high_res.shape
        with self._lock:
            if self._shapes.setdefault(scan, shape) != shape:
                now, before = ("x".join(map(str, sizes)) for sizes in (shape, self._shapes[scan]))
                raise DataError(
                    f"{scan.high_res}: has {now} voxels now and had {before} when the training began; put the former "
                    "scan back and go on with --resume"
                )
            self._cache[scan] = pair
            while len(self._cache) > 1 and sum(p.nbytes for p in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
        return pair

    def _read_pair(self, scan: Scan) -> Pair:
        by_patch = self._recipe.patches.degrade == "patch"
        if by_patch and scan.low_res is not None:
            raise DataError(f"{scan.low_res}: pairs of scans need a recipe with patches.degrade volume")
        if by_patch and self._recipe.intensity.per == "patch":
            volume = read_scan(scan.high_res, nan=self._nan, axes=self._recipe.axes)
            return Pair(volume.data, None, None, None, float(volume.data.mean()), volume.spacing_mm)
        spec = self._recipe.intensity
        high_res, low_res = read_pair(
            scan, self._degradation, nan=self._nan, axes=self._recipe.axes, intensity_kind=spec.kind
        )
        low_window = intensity.measure(spec.kind, low_res.data)
        high_window = intensity.measure(spec.kind, high_res.data) if spec.target == "own" else low_window
        low_data = None if by_patch else low_res.data
        tissue = float(high_res.data.mean())
        return Pair(high_res.data, low_data, low_window, high_window, tissue, high_res.spacing_mm)

    def _check_fits(self, path: Path, shape: Sequence[int]) -> None:
        """A whole axis (0) must hold 4 voxels like any patch, in two whole low-resolution voxels or more."""
        smallest = [
            p or max(-(-4 // f), 2) * f
            for p, f in zip(self._recipe.patches.shape, self._degradation.factors, strict=True)
        ]
        try:
            patches.check_fits(shape, smallest)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
