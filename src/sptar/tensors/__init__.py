"""What language models and retrievers share of torch: number formats and matrix products."""
