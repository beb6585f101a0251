"""Tasks: what a batch's loss is, and how a model is scored."""
