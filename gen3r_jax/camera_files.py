"""Deprecated name of :mod:`gen3r_jax.geometry.camera_files`, for one release."""

from gen3r_jax.geometry.camera_files import FORMATS, read_camera_file

__all__ = ["FORMATS", "read_camera_file"]
