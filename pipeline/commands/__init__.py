"""The commands of `foundry`, one module each."""
