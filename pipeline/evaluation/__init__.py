"""Evaluation: what the visualizations of an atlas are worth, by the model, by its data set and by held-out evaluators.

visualizations      scores of a visualization against the data set, and the status ok, weak or dead
dataset images   which dataset images visualizations are compared with: the panel, and each neuron's top-activating images
looks         what evaluators saw, in storage: embeddings and logits of dataset images and visualizations
looking       an evaluator looks at some of them
derived       scores of a visualization that follow from looks: accuracy, MIS, path similarity
summary       scores of a method: means over neurons, FID, KID, Inception Score, diversity
"""
