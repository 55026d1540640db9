"""Faster copies of a trained model: folding, compilation, other precision."""
