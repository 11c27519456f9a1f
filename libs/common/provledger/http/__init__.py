"""What services that speak HTTP share; needs the extra `gateway` (docs/adr/0016)."""
