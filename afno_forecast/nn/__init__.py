"""Networks on bare tensors. Imports torch only: this folder can be copied out and used alone."""
