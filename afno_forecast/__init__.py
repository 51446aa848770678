"""afno_forecast: train, roll out, score and draw forecasts of gridded data with Adaptive Fourier Neural Operators."""

__version__ = "0.1.0"
