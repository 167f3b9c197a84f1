"""Answers from trained retrievers."""
