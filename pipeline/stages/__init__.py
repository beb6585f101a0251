"""The five stages that dvc.yaml runs: each a thin command over the rooms that do the work."""
