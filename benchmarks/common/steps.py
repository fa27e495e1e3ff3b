"""Optimization steps of a batch of neurons through the public function, and when each step ended."""

import time
from dataclasses import dataclass

import torch

from pipeline.models import Model
from pipeline.synthesis.methods.presets import SynthesisOptions
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Seconds since the start at which each step of a run had ended, and at which the run had."""

    ends_s: list[float]
    total_s: float


class BatchOfNeurons:
    """The first units of one layer, each with the same target, as a batch that can be run again and again."""

    def __init__(
        self,
        model: Model,
        layer: str,
        references: torch.Tensor,
        options: SynthesisOptions,
        *,
        size: int,
        rule: str,
        execution_mode: str,
        unit: int = 0,
    ) -> None:
        self._model, self._layer, self._options, self._size, self._mode = model, layer, options, size, execution_mode
        plan = plan_alignment(model, layer, options, rule=rule, image_size_px=references.shape[-1])
        self._target = reference_target(model, plan, unit, references)
        self._image_size_px = plan.image_size_px

    def run(self) -> StepTimes:
        """Optimize the batch for all steps of its options."""
        ends_s: list[float] = []
        started = time.perf_counter()
        synthesize(
            self._model,
            [(self._layer, unit) for unit in range(self._size)],
            [self._target] * self._size,
            options=self._options,
            image_size_px=self._image_size_px,
            seeds=list(range(self._size)),
            execution_mode=self._mode,
            on_step=lambda *_: ends_s.append(time.perf_counter() - started),
        )
        return StepTimes(ends_s=ends_s, total_s=time.perf_counter() - started)
