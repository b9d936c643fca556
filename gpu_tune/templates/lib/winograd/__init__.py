"""The Winograd families."""
