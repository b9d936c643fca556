"""Measuring: candidates in, measurements out."""
