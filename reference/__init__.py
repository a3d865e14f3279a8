"""The specification: NumPy float64, written for reading. Every kernel is judged against it."""
