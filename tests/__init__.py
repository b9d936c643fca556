"""One folder a room; helpers apart."""
