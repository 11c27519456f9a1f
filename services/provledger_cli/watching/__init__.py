"""`monitor`: a log looked at again and again, from outside."""
