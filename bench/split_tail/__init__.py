"""What splitting the tiles beyond whole waves is expected to gain, and against what."""
