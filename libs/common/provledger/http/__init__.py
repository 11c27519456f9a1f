"""What services that speak HTTP share; serving needs the extra `gateway` (docs/adr/0016)."""
