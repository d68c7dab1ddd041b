"""A denoiser of simulated radiographs that comes with the package, and pictures of it."""

EXAMPLE = "example"
"""Name of the shipped denoiser in `config.pretrained`."""
