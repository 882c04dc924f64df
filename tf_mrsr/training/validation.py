"""How good the generator is on whole scans it does not train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tf_mrsr import metrics
from tf_mrsr.cohort import Scan
from tf_mrsr.errors import DataError, VolumeError, naming
from tf_mrsr.evaluation import baseline_estimates, evaluate_estimate, in_scale_of_truth, prepare_case
from tf_mrsr.inference.models import Model, check_volume
from tf_mrsr.inference.super_resolver import SuperResolver
from tf_mrsr.recipe import Recipe


class Validation:
    """Degrades held-out scans, super-resolves them and compares.

    Args:
        scans: high-resolution scans, or real pairs.
        recipe: says how they are degraded and compared.
        memory_bytes: see ``SuperResolver``.
        nan: see ``tf_mrsr.volume.read_volume``.
        on_bad_scan: called with the error of a scan that cannot be used, which is then left out; None raises instead.

    Attributes:
        scans: those that are used.

    Raises:
        VolumeError, DataError: if a scan cannot be used or measured and ``on_bad_scan`` is None, or none can.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        recipe: Recipe,
        *,
        memory_bytes: int,
        nan: str = "refuse",
        on_bad_scan: Callable[[Exception], None] | None = None,
    ) -> None:
        self._recipe = recipe
        self._mask = "auto" if metrics.PROTOCOLS[recipe.evaluation.protocol].masked else "none"
        self._memory_bytes = memory_bytes
        # Choosing an epoch takes no overlap between patches, which would make it many times slower.
        self._stride = recipe.prediction.patch
        self._nan = nan
        self.scans: list[Scan] = []
        for scan in scans:
            try:
                self._try_out(scan)
            except (VolumeError, DataError) as error:
                if on_bad_scan is None:
                    raise
                on_bad_scan(error)
            else:
                self.scans.append(scan)
        if not self.scans:
            raise DataError("none of the scans can be used for validation")

    def _try_out(self, scan: Scan) -> None:
        """Measures the first baseline, so that what cannot be measured is found before the training."""
        spec = self._recipe.evaluation
        case = prepare_case(scan, self._recipe, mask_source=self._mask, nan=self._nan)
        with naming(scan.high_res):
            check_volume(case.low_res, self._recipe.training_degradation(), self._memory_bytes)
        for _, estimate in baseline_estimates(case, spec.baselines[:1], spec.protocol):
            evaluate_estimate(case, estimate, spec.protocol)

    def measure(self, resolver: SuperResolver) -> dict[str, float]:
        """Mean of each metric over the scans."""
        model = Model(self._recipe, resolver)
        rows = []
        for scan in self.scans:
            case = prepare_case(scan, self._recipe, mask_source=self._mask, nan=self._nan)
            with naming(scan.high_res):
                estimate = model.super_resolve(case.low_res, self._memory_bytes, self._stride).data
            if model.target_window is not None:
                estimate = in_scale_of_truth(case, estimate, model.target_window, self._recipe.intensity.kind)
            rows.append(evaluate_estimate(case, estimate, self._recipe.evaluation.protocol))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
