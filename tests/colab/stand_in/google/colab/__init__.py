"""Stands for Colab's module of this name: the Drive, as far as the course uses it."""

from google.colab import drive

__all__ = ["drive"]
