"""What is kept: winners, records, recorded spaces, and files of other tuners."""
