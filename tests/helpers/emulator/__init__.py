"""What the tests of the emulator share."""
