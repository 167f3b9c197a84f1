"""How blocks of work are done: here, or elsewhere."""
