"""What PyTorch's Inductor tries for a matrix product, beside what ``matmul_mma`` can express."""
