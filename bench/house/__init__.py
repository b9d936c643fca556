"""Tools for keeping house: what must stay equal while the project is rearranged."""
