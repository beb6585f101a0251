"""Model Foundry: one versioned spec becomes a trained, validated and exported small model."""

__version__ = "0.1.0"
