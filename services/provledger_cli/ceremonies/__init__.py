"""`keys`: how a key is made, comes in, and takes the place of another."""
