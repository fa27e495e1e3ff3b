"""What `model_sweep` is made of: the models, one under test, and the checks."""
