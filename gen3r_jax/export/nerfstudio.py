"""transforms.json and images/: a scene as nerfstudio and its kin take it."""

from pathlib import Path

from gen3r_jax.export.images import image_names
from gen3r_jax.geometry.cameras import OPENGL_AXES, invert_se3
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import write_json


def write_transforms(path: Path | str, scene: Scene) -> None:
    """Camera-to-world matrices in OpenGL axes (x right, y up, z backward), intrinsics of every frame in pixels.

    Names ``points.ply`` beside `path`, if it is there.
    """
    height, width = scene.rgb.shape[1:3]
    c2w = invert_se3(scene.w2c.astype("float64")) @ OPENGL_AXES
    frames = [
        {
            "file_path": f"images/{name}",
            "w": width,
            "h": height,
            "fl_x": float(k[0, 0]),
            "fl_y": float(k[1, 1]),
            "cx": float(k[0, 2]),
            "cy": float(k[1, 2]),
            "transform_matrix": pose.tolist(),
        }
        for name, k, pose in zip(image_names(len(scene.rgb)), scene.intrinsics, c2w, strict=True)
    ]
    document = {"camera_model": "OPENCV", "camera_convention": "opengl_c2w"}
    if Path(path).with_name("points.ply").exists():
        document["ply_file_path"] = "points.ply"
    document["frames"] = frames
    write_json(path, document)
