"""A simulator of femur radiographs that stands in for a hospital's private images."""
