"""The search: which candidates to measure next."""
