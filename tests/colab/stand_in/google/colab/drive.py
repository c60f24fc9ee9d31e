"""Stands for Colab's Drive: a folder that outlives the kernel."""

from pathlib import Path


def mount(mountpoint):
    """Make what a mounted Drive has; a Drive that is mounted already stays as it is."""
    (Path(mountpoint) / "MyDrive").mkdir(parents=True, exist_ok=True)
    print(f"Mounted at {mountpoint}")
