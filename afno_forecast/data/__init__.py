"""Gridded files in, checked and packed training stores out, and batches read from them."""
