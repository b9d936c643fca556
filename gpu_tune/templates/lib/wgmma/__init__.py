"""The families on wgmma, fed by TMA."""
