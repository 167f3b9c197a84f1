"""One vector for a text."""
