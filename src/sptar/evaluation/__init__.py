"""Measures, and what differences prove."""
