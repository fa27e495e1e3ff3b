"""Statistics of the activation pass as mergeable monoids.

Each class has an identity (`empty`), an associative `merge`, and `of`, which makes it from a batch. Statistics of a
data set are therefore those of its parts merged, wherever the parts were recorded.
"""
