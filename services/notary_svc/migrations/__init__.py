"""Schema of the notary's database (`provledger.db.migrate`)."""
