"""A log's files and rows, read from where they lie and held together."""
