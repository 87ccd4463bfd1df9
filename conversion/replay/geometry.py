"""Recordings of geometry without weights: camera paths and rays, cloud metrics, cloud export."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from gen3r_jax.evaluation.geometry import aligned_chamfer
from gen3r_jax.export.pointcloud import CloudFilter, filter_cloud
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import plucker_map, rays, rebase_to_first
from gen3r_jax.geometry.trajectories import camera_path
from gen3r_jax.models.geometry_adapter import unpack_tokens
from gen3r_jax.ops.leaves import AnyArray


def pipeline_pieces(recording: Recording) -> Arrays:
    inputs, outputs = recording.inputs, {}
    for name in recording.outputs:
        if path := re.fullmatch(r"get_poses/(\w+)/F(\d+)", name):
            outputs[name] = camera_path(path[1], int(path[2]), recording.config["scene_scale"])

    c2w, intrinsics, (h, w) = rebase_to_first(inputs["c2w"]), inputs["K"], inputs["hw"].tolist()
    outputs["preprocess_poses"] = c2w
    origins, directions = rays(intrinsics, c2w, (h, w))
    outputs["rays_o"], outputs["rays_d"] = _channels_first(origins), _channels_first(directions)
    outputs["plucker"] = _channels_first(plucker_map(intrinsics, c2w, (h, w)))

    latent_grid, mask = inputs["latent_shape"].tolist()[2:], inputs["mask"]
    outputs["resize_mask_all"] = _resize_trilinear(mask, latent_grid)
    rest = [_resize_trilinear(mask[:, :, 1:], [latent_grid[0] - 1, *latent_grid[1:]])] if latent_grid[0] > 1 else []
    first = _resize_trilinear(mask[:, :, :1], [1, *latent_grid[1:]])
    outputs["resize_mask_first_frame_only"] = np.concatenate([first, *rest], axis=2)

    packed = jnp.asarray(inputs["token_latents"])
    patch_tokens, camera_token = unpack_tokens(packed)
    special = np.repeat(np.asarray(camera_token)[:, :, None], 5, axis=2)
    for i, patches in enumerate(np.asarray(patch_tokens)):
        outputs[f"token_list/{i}"] = np.concatenate([special, patches], axis=2)
    b, t, hp, wp, _ = packed.shape
    patch_size = recording.config["patch_size"]
    outputs["token_list_frames_shape"] = np.array([b, t, 3, hp * patch_size, wp * patch_size])
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()}


def _channels_first(x: AnyArray) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, -3)


def _resize_trilinear(mask: np.ndarray, grid: list[int]) -> np.ndarray:
    # The official pipeline defines this resize of its mask and never calls it, so it lives here alone.
    return np.asarray(jax.image.resize(mask, (*mask.shape[:2], *grid), "linear", antialias=False))


def eval_chamfer(recording: Recording) -> Arrays:
    """The settings stand in the names: ``mask_voxel0.4/chamfer``, ``mask_nodown_indices01/...``, ``umeyama_scale1``."""
    inputs, outputs = recording.inputs, {}
    target, mask = inputs["G"], inputs["mask"].astype(bool)
    for case in recording.outputs.cases():
        if case.startswith("umeyama"):
            settings = re.fullmatch(r"umeyama(_\w+?)?_scale([01])", case)
            assert settings is not None
            source = inputs[f"P{settings[1] or ''}"]
            fit = umeyama(source[mask], target[mask], "variance" if settings[2] == "1" else "none")
            values = {"R": fit.rotation, "t": fit.translation, "s": [fit.scale], "aligned": fit.apply(source)}
        else:
            settings = set(case.split("_"))
            voxel = re.search(r"voxel([\d.]+)", case)
            frames = re.search(r"indices(\d+)", case)
            seen = [int(digit) for digit in frames[1]] if frames else list(range(len(target)))
            distance = aligned_chamfer(
                inputs["P"][seen] if len(inputs["P"]) == len(target) else inputs["P"],
                target,
                mask,
                frames=seen,
                voxel_size=None if "nodown" in settings else float(voxel[1]) if voxel else 0.005,
                pad_with_origin=True,
                squared="squared" in settings,
            )
            values = {name: [value] for name, value in distance._asdict().items()}
            if "mm" in settings:
                values |= {name: [1000 * values[name][0]] for name in ("accuracy", "completeness", "chamfer")}
        outputs |= {f"outputs/{case}/{name}": np.asarray(value, np.float32) for name, value in values.items()}
    return outputs


def pointcloud_export(recording: Recording) -> Arrays:
    outputs = {}
    for i, case in enumerate(recording.config["cases"]):
        keep = CloudFilter(
            confidence_percentile=0.0,
            far_percentile=80.0 if case.get("remove_far_points", False) else None,
            outliers=case.get("filter_outliers", True),
            near_percentile=case.get("depth_percentile", 0),
            voxels_first=False,
            max_points=None,
        )
        points, colors = filter_cloud(
            recording.inputs["points"],
            recording.inputs["colors"],
            keep,
            case.get("voxel_size", 0.005),
            seed=recording.config.get("np_seed", 0),
        )
        order = np.lexsort(points.T[::-1])
        outputs[f"outputs/case{i}/points_sorted"] = points[order].astype(np.float32)
        outputs[f"outputs/case{i}/colors_sorted"] = (np.round(255 * colors[order]) / 255).astype(np.float32)
        outputs[f"outputs/case{i}/count"] = np.array(len(points))
    return outputs


# Largest errors on the recorded files: rays 3e-7, paths 1e-7, aligned points 2e-6, distances 2e-7 of their size (which
# is 80 in millimetres, hence the relative part), cloud points 0, colours 0.
REPLAYS = {
    "pipeline_pieces": Replay(
        pipeline_pieces,
        {r".*": Tolerance(1e-5)},
        marks=(r"outputs/get_poses/.*", r"inputs/token_latents", r"outputs/rays_o"),
    ),
    "eval_chamfer": Replay(
        eval_chamfer,
        {r".*": Tolerance(1e-5, relative=1e-6)},
        marks=(r"inputs/G", r"inputs/P", r"outputs/.*/relative_percent"),
    ),
    "pointcloud_export": Replay(
        pointcloud_export,
        {r".*/colors_sorted": Tolerance(1 / 255), r".*": Tolerance(1e-5)},
        marks=(r"inputs/points", r"outputs/case\d+/points_sorted"),
    ),
}
