"""What a retriever learns from a batch."""
