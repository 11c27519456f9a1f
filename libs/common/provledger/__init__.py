"""Provledger: receipts, chains, logs and proofs that verify offline."""
