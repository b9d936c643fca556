"""A tuning from call to published winner."""
