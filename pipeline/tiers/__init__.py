"""Tiers: is a trained model sound? Checks in four tiers, each a function and a row of one table."""
