"""CUDA as this project uses it: devices, driver, compiler, machine code, memory and launches."""
