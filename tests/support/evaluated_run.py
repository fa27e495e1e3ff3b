"""Runs with evaluators: their names, the recipes that name them, and readers of the results."""

import json

from torch import nn

from jobs.run.run_folder import STAGES
from jobs.runner import run_stages
from pipeline.io.parquet import read_rows
from pipeline.io.root import Root
from tests.support.tiny_run import small_net

EVALUATOR = "python:tests.support.tiny_run:small_net"
SLUG = "python_tests_support_tiny_run_small_net"
BACKBONE = "python:tests.support.evaluated_run:backbone"
# Ten visualizations of classes and twelve of intermediate units: enough for distances between sets.
ENOUGH = ("visualize.seeds=2", 'neurons=[{layer="classifier"}, {layer="stage2", units="0:6"}]', "visualize.steps=1")


def evaluated_by(*evaluators: str) -> str:
    return f"evaluate.held_out_models={json.dumps(evaluators)}"


def backbone() -> nn.Module:
    """A network without classes."""
    module = small_net()
    return nn.Sequential(module.stem, nn.ReLU(), module.stage1, module.stage2)


def run(recipe, stages=STAGES, **options):
    reports = run_stages(recipe, stages, **{"address": "inline", "echo": lambda line: None} | options)
    return {report.stage: report for report in reports}


def rows_of(out, layer):
    return {(row["unit"], row["seed"]): row for row in read_rows(Root.open(out), f"layers/{layer}.parquet")}


def scores_of(out, **place):
    """metric → row of scores.parquet."""
    rows = read_rows(Root.open(out), "scores.parquet")
    return {row["metric"]: row for row in rows if all(row[name] == value for name, value in place.items())}
