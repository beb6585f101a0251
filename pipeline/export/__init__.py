"""Exports of a trained model to other formats, and the proof that each is still the same model."""
