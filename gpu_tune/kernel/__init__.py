"""A tuned kernel: its call, its arrays, its source file and its C++ header."""
