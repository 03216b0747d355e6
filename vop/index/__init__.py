"""The index of `vop index`: a table of videos and of their windows' embeddings that only grows, and the search in it."""
