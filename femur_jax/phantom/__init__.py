"""A simulator of femur radiographs: the stand-in for a hospital's private images."""
