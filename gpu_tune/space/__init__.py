"""Spaces: knobs, constraints and the valid configs they leave."""
