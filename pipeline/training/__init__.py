"""Training: the loop, its optimizer and schedule, exact checkpoints, the hardware it runs on."""
