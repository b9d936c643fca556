"""The families on mma.sync, fed by cp.async."""
