"""Models, each complete in one file, and the folder they are stored in."""
