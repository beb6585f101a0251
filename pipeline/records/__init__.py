"""What is remembered about runs and models: SQLite files that many processes share."""
