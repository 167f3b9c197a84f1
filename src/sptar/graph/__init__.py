"""The graph of a run: which steps make its methods, and in which order they are taken."""
