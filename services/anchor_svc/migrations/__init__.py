"""Schema of the anchor's database (`provledger.db.migrate`)."""
