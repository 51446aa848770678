"""afno_forecast: train, roll out, score and draw forecasts of gridded data with Adaptive Fourier Neural Operators."""

import time

__version__ = "0.1.0"
__started__ = time.time()
"""When this process began, seconds since 1970: the package is the first that it imports."""
