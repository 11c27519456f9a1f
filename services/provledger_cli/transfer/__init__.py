"""`import`, `export`, `refresh`: ledgers into the services and out of them, in constant memory."""
