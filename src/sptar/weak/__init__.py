"""Weak queries: choosing examples, writing, cleaning, filtering."""
