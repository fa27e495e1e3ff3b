"""The shortest recipe, for tests that only read, write and compare recipes."""

from pipeline.recipe.recipe import Recipe

MINIMAL = """
name = "tiny"
[model]
name = "timm:resnet18"
[data]
shards = "x-{0000..0003}.tar"
[output]
root = "out"
[[neurons]]
layer = "classifier"
"""


def tiny(*overrides: str) -> Recipe:
    return Recipe.from_toml(MINIMAL, overrides)
