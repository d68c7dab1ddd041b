"""Synthetic radiographs of femur fractures, and whether they are any good."""
