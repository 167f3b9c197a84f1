"""Soft prompt tuning, and LoRA for comparison."""
