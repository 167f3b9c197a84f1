"""Writing and scoring behind a shared prefix."""
