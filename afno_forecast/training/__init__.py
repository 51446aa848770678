"""Fitting a forecaster to a training store."""
