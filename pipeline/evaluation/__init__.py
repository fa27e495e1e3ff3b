"""Evaluation: what the pictures of an atlas are worth, by the model, by its data set and by held-out judges.

pictures      scores of a picture against the data set, and the verdict ok, weak or dead
photographs   which photographs pictures are compared with: the panel, and each neuron's exemplars
looks         what judges saw, in storage: embeddings and logits of photographs and pictures
looking       a judge looks at some of them
derived       scores of a picture that follow from looks: accuracy, MIS, path similarity
summary       scores of a method: means over neurons, FID, KID, Inception Score, diversity
"""
