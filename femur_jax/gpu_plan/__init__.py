"""Predicted memory and speed of a training step on GPUs, read from the compiled program.

JAX compiles for a GPU that is not there: only its CUDA plugin is needed. `targets` describes the
GPUs, `compiler` compiles a config's step for a mesh of them, `program` reads kernels and
collectives from the program's text, and `roofline` turns them into times.
"""
