"""The frozen language model: loading, soft prompts, generation."""
