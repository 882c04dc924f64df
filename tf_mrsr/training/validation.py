"""How good the generator is on whole scans it does not train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf_mrsr.cohort import Scan
from tf_mrsr.evaluation import evaluate_estimate, in_scale_of_truth, prepare_case
from tf_mrsr.inference.models import Model
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.recipe import Recipe


class Validation:
    """Degrades held-out scans, super-resolves them and compares.

    Args:
        scans: high-resolution scans, or real pairs.
        recipe: says how they are degraded and compared.
        memory_bytes: see ``SuperResolver``.
        nan: see ``tf_mrsr.volume.read_volume``.

    Raises:
        VolumeError, DataError: if a scan cannot be used.
    """

    def __init__(self, scans: Sequence[Scan], recipe: Recipe, *, memory_bytes: int, nan: str = "refuse") -> None:
        self._recipe = recipe
        self._memory_bytes = memory_bytes
        # Choosing an epoch takes no overlap between patches, which would make it many times slower.
        self._stride = recipe.prediction.patch
        self._scans = list(scans)
        self._nan = nan
        for scan in self._scans:
            prepare_case(scan, recipe, mask_source="auto", nan=nan)

    def measure(self, resolver: SuperResolver) -> dict[str, float]:
        """Mean of each metric over the scans."""
        model = Model(self._recipe, resolver)
        rows = []
        for scan in self._scans:
            case = prepare_case(scan, self._recipe, mask_source="auto", nan=self._nan)
            estimate = model.super_resolve(case.low_res, self._memory_bytes, self._stride).data
            if model.target_window is not None:
                estimate = in_scale_of_truth(case, estimate, model.target_window, self._recipe.intensity.kind)
            rows.append(evaluate_estimate(case, estimate, self._recipe.evaluation.protocol))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
