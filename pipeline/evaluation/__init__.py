"""What a trained model is worth: held-out loss, memory, latency, and whether it keeps its budgets."""
