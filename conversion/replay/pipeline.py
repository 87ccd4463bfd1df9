"""Recordings of the pipeline: what the transformer is given, and whole generations from noise to geometry."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from conversion.tables import clip_vision, geometry_adapter, umt5, vggt, wan_dit, wan_vae
from gen3r_jax import module
from gen3r_jax.diffusion.conditioning import camera_condition, condition, pack_time
from gen3r_jax.diffusion.solvers import init_state, make_schedule, solver_step
from gen3r_jax.diffusion.tasks import frame_mask, given_frames
from gen3r_jax.generation.networks import encode_tokens, encode_video
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.geometry.cameras import plucker_map, rebase_to_first
from gen3r_jax.geometry.trajectories import camera_path
from gen3r_jax.models.clip_vision import CLIPVision
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.umt5 import UMT5Encoder
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.models.wan_dit import WanDiT
from gen3r_jax.models.wan_vae import WanVAE
from gen3r_jax.ops.leaves import AnyArray

NEGATIVE = "bad detailed"


def pipeline_control_inputs(recording: Recording) -> Arrays:
    config, inputs = recording.config, recording.inputs
    size, num_frames = (config["height"], config["width"]), config["num_frames"]
    video_encoder = _wan_vae(recording)
    texts = _encode_texts(_text_encoder(recording), config)
    latents = inputs["latents"]
    f, h, w = latents.shape[2:]
    pluecker = _enlarged(inputs["plucker_small"], size[0] // inputs["plucker_small"].shape[-2])
    cameras = _channels_first(camera_condition(jnp.moveaxis(pluecker, 2, -1)))
    outputs = {}
    for task in config["tasks"]:
        images = np.moveaxis(inputs[f"{task}/control_images"], 2, -1)
        given = given_frames(task, num_frames)
        clip, mask = _masked(images, given, num_frames)
        noise = jnp.moveaxis(inputs[f"{task}/vae_eps"], 1, -1)
        video = jax.jit(encode_video)(video_encoder, clip).sample(noise)
        outputs |= {
            f"{task}/clip_input": _clip_input(images[0, 0]),
            f"{task}/final_latents_zero_velocity": _stand_still(latents),
            f"{task}/seq_len": np.array(int(np.ceil(h * w / 4 * f))),
            f"{task}/t": np.full(2, make_schedule("euler", 1, 2.0).timesteps[0]),
            f"{task}/x": np.concatenate([latents, latents]),
            f"{task}/y": _channels_first(condition(video, jnp.asarray(mask))),
            f"{task}/y_camera_half_strided4": cameras[..., ::4, : cameras.shape[-1] // 2 : 4],
            f"{task}/y_camera_shape": np.array(cameras.shape),
        } | {f"{task}/context/{i}": text for i, text in enumerate(texts)}
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()}


def pipeline_full(recording: Recording) -> Arrays:
    """A generation along a built-in camera path, as the official command makes it."""
    config, inputs = recording.config, recording.inputs
    pipeline = _pipeline(recording)
    images = np.moveaxis(_enlarged(inputs["control_images_block10"], 10), 2, -1)
    size, num_frames = images.shape[2:4], config["num_frames"]

    _, intrinsics, median = pipeline.reconstruct_cameras(images[0])
    c2w = rebase_to_first(camera_path(config["trajectory"], 49, 0.8 * median))
    pluecker = plucker_map(np.broadcast_to(intrinsics[:1], (49, 3, 3)), c2w, size)
    steps = []
    result = pipeline(
        "prompt",
        images,
        pluecker[None, :num_frames],
        negative_prompt=NEGATIVE,
        num_frames=num_frames,
        num_inference_steps=config["num_inference_steps"],
        guidance_scale=config["guidance_scale"],
        latents=np.moveaxis(_enlarged(inputs["latents_block5"], 5) + inputs["latents_map"], 1, -1),
        posterior_noise=np.moveaxis(_enlarged(inputs["vae_eps_block5"], 5), 1, -1),
        callback_on_step_end=lambda i, timestep, latents: steps.append((timestep, np.asarray(latents))),
        min_max_depth_mask=True,
    )
    masks, point_maps = result.point_masks, result.point_maps
    assert point_maps is not None
    outputs = {
        "depth_strided8": result.depth_maps[:, :, ::8, ::8],
        "extrinsics": result.cameras[0],
        "intrinsics": result.cameras[1],
        "final_latents": _channels_first(result.latents),
        "infer/K": intrinsics[0],
        "infer/c2ws": c2w[None],
        "infer/scene_scale": np.float32(0.8 * median),
        "infer/plucker_frames_0_24_48_strided8": np.moveaxis(pluecker[[0, 24, 48], ::8, ::8], -1, 1)[None],
        "pcds_strided8": result.pcds[:, :, ::8, ::8],
        "point_maps_strided8": point_maps[:, :, ::8, ::8],
        "point_masks_count_per_frame": masks.sum(axis=(0, 2, 3)),
        "point_masks_strided8": masks[:, :, ::8, ::8],
        "rgbs_crop_last_frame_256_304": result.rgbs[:, -1, 256:304, 256:304],
        "rgbs_strided8": result.rgbs[:, :, ::8, ::8],
        "seq_len": np.array(int(np.prod(result.latents.shape[1:4]) // 4)),
        "timesteps": np.array([timestep for timestep, _ in steps], np.float32),
    } | {f"context/{i}": text for i, text in enumerate(_encode_texts(_text_encoder(recording), config))}
    geometry_vggt = module.merge(*pipeline.network("vggt"))
    read = jax.jit(VGGT.__call__)(geometry_vggt, images)
    outputs |= {"infer/pose_enc": read.pose_enc, "infer/depth_maps_strided8": read.depth[:, :, ::8, ::8, None]}

    clip_features = jax.jit(CLIPVision.__call__)(module.merge(*pipeline.network("clip_vision")), images[:, 0])
    packed = jax.jit(GeometryAdapter.decode)(
        module.merge(*pipeline.network("geometry_adapter")), result.latents[:, :, :, result.latents.shape[3] // 2 :]
    )
    cameras = _channels_first(pack_time(jnp.asarray(pluecker[None, :num_frames])))
    intermediates = {
        "clip_context_strided8": clip_features[:, ::8],
        "vggt_cam_token_mean": np.moveaxis(packed[..., -packed.shape[-1] // 5 :].mean(axis=(2, 3)), -1, 1),
        "vggt_tokens_strided5": _channels_first(packed[:, :, ::5, ::5]),
        "y_camera_first_call_half_strided16": cameras[..., ::16, ::16],
    } | {f"latents_after_step_strided5/{i}": _channels_first(z[:, :, ::5, ::5]) for i, (_, z) in enumerate(steps)}
    groups = {"outputs": outputs, "intermediates": intermediates}
    return {f"{group}/{name}": np.asarray(x) for group, tensors in groups.items() for name, x in tensors.items()}


def dit_training_encode(recording: Recording) -> Arrays:
    """The released trainer's batches, in which the geometry of the given frames is a condition too."""
    inputs = recording.inputs
    frames = np.moveaxis(_enlarged(inputs["pixel_values_block4"], 4), 2, -1)
    networks = _wan_vae(recording), *_geometry_networks(recording)
    noises = [np.moveaxis(inputs[name], 1, -1)[:, None] for name in ("eps_wan", "eps_geo")]

    def encode(clip: np.ndarray, draw: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        return _encode_both(networks, clip, *(noise[draw] for noise in noises))

    video, geometry, packed = encode(frames, 0)
    outputs = {
        "combined_latents": _channels_first(jnp.concatenate([video, geometry], axis=3)),
        "vggt_latents_strided": _channels_first(packed[..., ::3]),
        "wan_latents": _channels_first(video),
    }
    for draw, task in enumerate(("1view", "allview", "2view"), 1):
        given = given_frames(task, frames.shape[1])
        clip, mask = _masked(frames[:, list(given)], given, frames.shape[1])
        video, geometry, _ = encode(clip, draw)
        outputs[f"control_{task}/control_latents"] = _channels_first(condition(video, jnp.asarray(mask), geometry))
        outputs[f"control_{task}/clip_input_strided4"] = _clip_input(frames[0, 0])[..., ::4, ::4]
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()}


@jax.jit
def _encode_both(networks, clip, video_noise, geometry_noise):
    wan_vae_network, geometry_vggt, adapter = networks
    packed = encode_tokens(geometry_vggt, clip)
    video, geometry = encode_video(wan_vae_network, clip), adapter.encode(packed)
    return video.sample(video_noise), geometry.sample(geometry_noise), packed


def _pipeline(recording: Recording) -> Gen3RPipeline:
    """The pipeline with recorded weights, and a tokenizer that knows the recorded texts."""
    config = recording.config
    dit = recording.companion(config["weights_dit"])
    weights = _weights(recording)
    geometry_vggt, adapter = _geometry_networks(recording)
    clip = weights.network(CLIPVision, clip_vision.TABLE.read_config(config["clip"]), clip_vision.TABLE, "clip.")
    networks = {
        "umt5": _text_encoder(recording),
        "clip_vision": clip,
        "wan_vae": _wan_vae(recording),
        "wan_dit": dit.network(WanDiT, wan_dit.TABLE.read_config(dit.config), wan_dit.TABLE),
        "geometry_adapter": adapter,
        "vggt": geometry_vggt,
    }

    def tokenize(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        return _tokens(texts, length, config)

    return Gen3RPipeline(
        lambda name: module.split(networks[name]),
        tokenize,
        text_length=config["max_sequence_length"],
        shift=config["scheduler"]["shift"],
    )


def _weights(recording: Recording) -> Recording:
    return recording.companion(recording.config.get("weights", "pipeline_weights").split("+")[0].strip())


def _geometry_networks(recording: Recording) -> tuple[VGGT, GeometryAdapter]:
    weights, config = _weights(recording), recording.config
    geometry_vggt = weights.network(VGGT, vggt.TABLE.read_config(config["vggt"]), vggt.TABLE, "vggt.")
    adapter_config = geometry_adapter.TABLE.read_config(config["geo_adapter"])
    return geometry_vggt, weights.network(GeometryAdapter, adapter_config, geometry_adapter.TABLE, "geo_adapter.")


def _wan_vae(recording: Recording) -> WanVAE:
    weights = recording.companion(recording.config["weights_wan_vae"])
    return weights.network(WanVAE, wan_vae.TABLE.read_config(weights.config), wan_vae.TABLE)


def _text_encoder(recording: Recording) -> UMT5Encoder:
    weights = recording.companion(recording.config["weights_t5"])
    return weights.network(UMT5Encoder, umt5.TABLE.read_config(weights.config), umt5.TABLE)


def _stand_still(latents: np.ndarray) -> np.ndarray:
    """Where a solver ends that is told not to move."""
    state = init_state(jnp.asarray(latents))
    for _, coefficients in make_schedule("euler", 2, 2.0):
        state = solver_step(state, jnp.zeros_like(state.sample), jnp.asarray(coefficients))
    return np.asarray(state.sample)


def _tokens(texts: Sequence[str], length: int, config: dict) -> tuple[np.ndarray, np.ndarray]:
    rows = [config["token_table"][text] for text in texts]
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    return ids, np.arange(length) < np.array([[len(row)] for row in rows])


def _encode_texts(network: UMT5Encoder, config: dict) -> list[np.ndarray]:
    """Features of the negative prompt and of the prompt, without padding."""
    ids, mask = _tokens((NEGATIVE, "prompt"), config["max_sequence_length"], config)
    features = jax.jit(UMT5Encoder.__call__)(network, ids, mask)
    return [np.asarray(rows[valid]) for rows, valid in zip(features, mask, strict=True)]


def _masked(images: np.ndarray, given: Sequence[int], num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """A clip that is black where nothing is given, and where something is."""
    clip = np.zeros((len(images), num_frames, *images.shape[2:]), np.float32)
    clip[:, list(given)] = images
    return clip, np.tile(frame_mask(given, num_frames), (len(images), 1))


def _clip_input(image: np.ndarray) -> np.ndarray:
    """The image as the official encoder is handed it: 8 bits, then [-1, 1]; [3 1 h w]."""
    return np.moveaxis(np.floor(255 * image) / 255 * 2 - 1, -1, 0)[:, None].astype(np.float32)


def _enlarged(x: np.ndarray, factor: int) -> np.ndarray:
    """Every entry stands for a tile."""
    return x.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _channels_first(x: AnyArray) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


REPLAYS = {
    "pipeline_control_inputs": Replay(
        pipeline_control_inputs,
        {r".*/clip_input": Tolerance(), r".*": Tolerance(5e-5)},
        marks=(r"inputs/plucker_small", r"outputs/.*/y_camera_shape"),
    ),
    "pipeline_full": Replay(
        pipeline_full,
        {
            r".*latents.*": Tolerance(1e-3),
            r".*/point_masks.*": Tolerance(flips=1e-3),
            r".*": Tolerance(2e-3, relative=2e-3),
        },
        marks=(r"inputs/control_images_block10", r"outputs/final_latents", r"outputs/timesteps"),
    ),
    "dit_training_encode": Replay(
        dit_training_encode,
        {r".*/clip_input.*": Tolerance(), r".*": Tolerance(5e-5)},
        marks=(r"inputs/eps_geo", r"outputs/combined_latents"),
    ),
}
