"""`backup` and `restore`: one moment of all services as one file, and back again."""
