"""Evaluation: scores of visualizations by the model, by its data set and by held-out evaluators.

scores              scores of a visualization against the data set, and the status ok, weak or dead
comparison_images   the dataset images that visualizations are compared with
predict             an evaluator predicts dataset images and visualizations
predictions         the predictions in storage: embeddings and logits
derived             scores of a visualization that follow from predictions: accuracy, two_afc, path similarity
summary             scores of a method: means over neurons, FID, KID, Inception Score, diversity
"""
