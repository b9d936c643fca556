// tile 64
