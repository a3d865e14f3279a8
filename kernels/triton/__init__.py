"""GPU kernels in Triton; with TRITON_INTERPRET=1 set before triton is imported they run on the CPU, for tests."""
