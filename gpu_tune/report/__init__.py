"""What a benchmark or a search says, as text, JSON or HTML."""
