"""Unit embeddings, nearest neighbors and the map."""
