"""Stands for Colab's module of this name: secrets and the Drive, as far as the course uses them."""

from google.colab import drive, userdata

__all__ = ["drive", "userdata"]
