"""What `up` runs: a data directory, its services and their supervisor."""
