"""MACO: activation maximization over the phases under the mean magnitude spectrum of real images."""

from pipeline.synthesis.methods.activation_maximization import ActivationObjective
from pipeline.synthesis.methods.method import Method

MACO = Method(
    name="maco",
    description="maximize the activation over the phases under the mean magnitude spectrum of real images",
    source="Fel et al., NeurIPS 2023, arXiv 2306.06805; settings of the authors' library Horama",
    objective=ActivationObjective,
)
