"""`verify`: what was checked, whom it believes, and how it is told."""
