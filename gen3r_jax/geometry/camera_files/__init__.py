"""Cameras from and to files: one module a format, and :func:`read_camera_file`, which knows them all."""

from gen3r_jax.geometry.camera_files.read import FORMATS, read_camera_file

__all__ = ["FORMATS", "read_camera_file"]
