"""Retrievers: BM25, bi-encoders, exact search."""
