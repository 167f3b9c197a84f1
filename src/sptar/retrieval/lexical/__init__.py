"""BM25 and what it stands on."""
