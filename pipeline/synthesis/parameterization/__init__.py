"""What the optimizer moves: pixels, Fourier coefficients, phases."""
