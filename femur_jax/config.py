"""The type of a config."""

from typing import Any, TypeAlias

Config: TypeAlias = Any
"""An ml_collections.ConfigDict; typed loosely, since type checkers cannot know its fields."""
