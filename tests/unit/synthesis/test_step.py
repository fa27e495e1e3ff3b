"""The traced step is the plain one, for every batch of its shape; in bfloat16 it is close."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from pipeline.alignment.losses import NeuronTarget
from pipeline.models import Model, Precision
from pipeline.synthesis import step as step_module
from pipeline.synthesis.methods.options import SynthesisOptions, VitalOptions
from pipeline.synthesis.methods.presets import preset
from pipeline.synthesis.methods.registry import method_named
from pipeline.synthesis.methods.vital import AlignmentObjective
from pipeline.synthesis.methods.vital_target import plan_alignment, reference_target
from pipeline.synthesis.optimize import synthesize
from pipeline.synthesis.step import ExecutionMode, Step, TracingError, losses_of
from pipeline.synthesis.tracing import trace
from tests.support.tiny_networks import tiny_model

UNITS = [3, 1]


@pytest.fixture
def model() -> Model:
    return tiny_model()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that were traced; torch's compiler leaves them as they are (it is torch's to test)."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(function: Callable[..., Sequence[torch.Tensor]], example: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(trace(function, example))
        return graphs[-1]

    monkeypatch.setattr(step_module, "trace", keep)
    monkeypatch.setattr(step_module.torch, "compile", lambda graph, **_options: graph)
    return graphs


def make_step(
    model: Model, method: str, layer: str, units: list[int], options: SynthesisOptions, execution_mode: ExecutionMode
) -> Step:
    _ = model.feature_shapes  # measured by a forward pass, which no trace may hold
    targets: list[NeuronTarget] = []
    if isinstance(options, VitalOptions):
        images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(sum(units)))
        plan = plan_alignment(model, layer, options)
        targets = [reference_target(model, plan, unit, images) for unit in units]
    objective = method_named(method).objective(model, layer, units, targets, options)
    return Step(objective, model.module, execution_mode=execution_mode)


@pytest.mark.parametrize(
    ("method", "name", "layer", "execution_mode"),
    [
        ("vital", "published", "stage1", "traced"),  # relevance at every step
        ("vital", "fast", "stage1", "compiled"),  # the folded network where relevance is kept
        ("vital", "fast", "fc", "traced"),
        ("deepinversion", "published", "fc", "compiled"),  # hooks inside the network
    ],
)
def test_the_traced_step_is_the_plain_one_for_every_batch(
    model: Model,
    traced: list[torch.fx.GraphModule],
    method: str,
    name: str,
    layer: str,
    execution_mode: ExecutionMode,
) -> None:
    options = preset(name, method)
    for units in (UNITS, [0, 4]):
        plain, other = (make_step(model, method, layer, units, options, mode) for mode in ("plain", execution_mode))
        for refresh in (True, False, True):
            views = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(10 * units[0] + refresh))
            losses, gradients = plain(views, refresh=refresh)
            assert gradients.abs().max() > 0
            for found, expected in zip(other(views, refresh=refresh), (losses, gradients), strict=True):
                assert torch.equal(found, expected)
    has_relevance = method == "vital" and layer == "stage1"
    assert len(traced) == (2 if has_relevance else 1)  # relevance of its own, and that of the step before


@pytest.mark.parametrize("wrong", [lambda gradient: gradient.roll(1, dims=0), lambda gradient: gradient * torch.nan])
def test_a_compiled_step_with_other_numbers_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    def compile_(graph: torch.fx.GraphModule, **_options: object) -> Callable[..., object]:
        def run(*given: torch.Tensor) -> list[torch.Tensor]:
            losses, gradient, *maps = graph(*given)
            return [losses, wrong(gradient), *maps]

        return run

    monkeypatch.setattr(step_module.torch, "compile", compile_)
    step = make_step(model, "vital", "fc", UNITS, preset("fast"), "compiled")
    with pytest.raises(TracingError, match="cannot be compiled: RuntimeError: compiled, it gives other numbers"):
        step(torch.randn(2, 3, 32, 32), refresh=True)


def test_what_is_compiled_for_a_cpu_runs_in_deterministic_mode(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def compile_(graph: torch.fx.GraphModule, **_options: object) -> Callable[..., object]:
        def run(*given: torch.Tensor) -> object:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return graph(*given)

        return run

    monkeypatch.setattr(step_module.torch, "compile", compile_)
    step = make_step(model, "vital", "stage1", UNITS, preset("published"), "compiled")
    for _ in range(2):
        step(torch.randn(2, 3, 32, 32), refresh=True)
    assert seen == [True] * 3  # once more while it is made
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_shape_or_setting_is_traced_anew(model: Model, traced: list[torch.fx.GraphModule]) -> None:
    options = preset("published")
    views = torch.randn(2, 3, 32, 32)
    for same in (options, dataclasses.replace(options, steps=7, learning_rate=0.5)):
        make_step(model, "vital", "fc", UNITS, same, "traced")(views, refresh=True)
    assert len(traced) == 1
    make_step(model, "vital", "fc", [1], options, "traced")(views[:1], refresh=True)
    other = dataclasses.replace(options, grid=2)
    make_step(model, "vital", "fc", UNITS, other, "traced")(views, refresh=True)
    make_step(model, "vital", "stage1", UNITS, options, "traced")(views, refresh=True)
    assert len(traced) == 4


def test_the_graph_that_was_not_used_the_longest_is_forgotten(
    model: Model, traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "_MAX_GRAPHS", 2)
    views = torch.randn(2, 3, 32, 32)

    def count(unit_count: int) -> int:
        units = list(range(unit_count))
        make_step(model, "fourier", "stage1", units, preset("fast", "fourier"), "traced")(
            views[:1].repeat(unit_count, 1, 1, 1), refresh=True
        )
        return len(traced)

    assert [count(1), count(2), count(1), count(3), count(1), count(2)] == [1, 2, 2, 3, 3, 4]


def test_a_rule_of_its_own_is_traced_anew(model: Model, traced: list[torch.fx.GraphModule]) -> None:
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for rule in ("lrp", "gradient_x_activation"):
        plan = plan_alignment(model, "stage1", preset("published"), rule=rule)
        target = reference_target(model, plan, 1, images)
        objective = AlignmentObjective(model, "stage1", [1], [target], preset("published"))
        for execution_mode in ("plain", "traced"):
            gradients[rule, execution_mode] = Step(objective, model.module, execution_mode=execution_mode)(
                images[:1], refresh=True
            )[1]
        assert torch.equal(gradients[rule, "traced"], gradients[rule, "plain"])
    assert not torch.equal(gradients["lrp", "plain"], gradients["gradient_x_activation", "plain"])


class LooksAtValues(torch.nn.Module):
    """A network that no trace holds: what it does depends on what it sees."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.detach().mean().item() > -100 else self.inner(-x)


def test_what_cannot_be_traced_says_so_and_runs_plainly(model: Model) -> None:
    model.module = LooksAtValues(model.module)
    model.forget_measurements()
    objective = method_named("fourier").objective(model, "inner.stage2", UNITS, [], preset("fast", "fourier"))
    views = torch.randn(2, 3, 32, 32)
    assert Step(objective, model.module, execution_mode="plain")(views, refresh=True)[0].isfinite().all()
    with pytest.raises(TracingError, match=r"cannot be traced: .*; set visualize.compile = false"):
        Step(objective, model.module, execution_mode="traced")(views, refresh=True)


@pytest.mark.parametrize("layer", ["fc", "stage2"])
def test_bfloat16_is_close_to_float32_and_keeps_the_model_as_it_was(model: Model, layer: str) -> None:
    options = preset("fast")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = plan_alignment(model, layer, options)
    targets = [reference_target(model, plan, unit, images) for unit in UNITS]
    before = model.weights_sha256
    losses = []
    for precision in ("float32", "bfloat16"):
        working = model.in_precision(precision)
        losses.append(losses_of(AlignmentObjective(working, layer, UNITS, targets, options), images))
        assert losses[-1].dtype == torch.float32
        assert working.weights_sha256 == before
    assert next(model.module.parameters()).dtype == torch.float32
    assert model.in_precision("bfloat16") is model.in_precision("bfloat16")
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
    assert not torch.equal(losses[1], losses[0])


def test_visualizations_in_bfloat16_reach_what_those_in_float32_do(model: Model) -> None:
    options = preset("fast", steps=20, aligned_side=0, activation_growth=1.0)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = plan_alignment(model, "stage2", options)
    targets = [reference_target(model, plan, unit, images) for unit in UNITS]

    def losses(precision: Precision, steps: int) -> list[float]:
        made = synthesize(
            model,
            [("stage2", unit) for unit in UNITS],
            targets,
            options=dataclasses.replace(options, steps=steps),
            image_size_px=32,
            seeds=[1, 2],
            precision=precision,
        )
        return [visualization.loss for visualization in made]

    before, wide, narrow = losses("float32", 1), losses("float32", 20), losses("bfloat16", 20)
    for first, a, b in zip(before, wide, narrow, strict=True):
        assert first - b > 0.8 * (first - a) > 0
