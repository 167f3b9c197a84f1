"""Each family while it is trained."""
