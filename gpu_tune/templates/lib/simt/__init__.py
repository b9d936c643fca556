"""The families on the plain arithmetic units."""
