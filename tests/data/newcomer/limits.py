"""What the family's files share."""

GRID_Y, INT = 65535, 2**31 - 2**20
