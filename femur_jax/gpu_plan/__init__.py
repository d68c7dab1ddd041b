"""Predicted memory and speed of a training step on GPUs, read from the compiled program.

JAX compiles for a GPU that is not there: only its CUDA plugin is needed. `targets` describes the
GPUs, `compiler` compiles a config's step for a mesh of them, `hlo` parses the program's text,
`kernels` and `collectives` find what costs time in it, and `roofline` turns that into times.
"""
