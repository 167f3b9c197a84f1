"""Collections: reading, checking, splitting."""
