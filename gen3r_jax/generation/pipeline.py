"""Gen3R: from some frames, a prompt and cameras to a scene whose video, depth, cameras and points agree.

The diffusion transformer samples Z = [A ; G]. A decodes to the video, G through the geometry adapter to VGGT's tokens,
from which VGGT's heads read depth and cameras (Gen3R, section 3.3).
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gen3r_jax.diffusion.conditioning import frame_mask
from gen3r_jax.diffusion.solvers import Schedule, make_schedule
from gen3r_jax.diffusion.step_cache import evaluated_steps
from gen3r_jax.errors import UserError
from gen3r_jax.generation import programs
from gen3r_jax.generation.networks import Geometry, Network
from gen3r_jax.generation.settings import read_shift
from gen3r_jax.geometry.cameras import decode_pose, homogeneous
from gen3r_jax.geometry.points import depth_mask, unproject_depth
from gen3r_jax.models.registry import EXACT, NETWORKS
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.scene import Scene
from gen3r_jax.sharding import fetch
from gen3r_jax.storage.checkpoint import load_network, read_config

MemoryMode = Literal["resident", "staged"]
Callback = Callable[[int, float, Float[Array, "b f h w 16"]], None]


@dataclass(frozen=True)
class Gen3RPipelineOutput:
    """What a generation gives; names and layouts of the official pipeline, in NumPy and float32.

    Attributes:
      rgbs: frames in [0, 1].
      depth_maps: along each camera's optical axis.
      depth_confidence: of the depth, at least 1.
      point_maps: world points of VGGT's point head; None if it has none.
      pcds: world points of the depth, unprojected with the cameras.
      point_masks: pixels whose depth is plausible (percentiles of the frame with ``min_max_depth_mask``).
      cameras: world-to-camera matrices (OpenCV axes) and intrinsics in pixels.
      latents: the sample Z itself.
      evaluations: how many steps ran the transformer; fewer than there were with a step cache.
    """

    rgbs: Float[np.ndarray, "b t h w 3"]
    depth_maps: Float[np.ndarray, "b t h w 1"]
    depth_confidence: Float[np.ndarray, "b t h w"]
    point_maps: Float[np.ndarray, "b t h w 3"] | None
    pcds: Float[np.ndarray, "b t h w 3"]
    point_masks: Bool[np.ndarray, "b t h w"]
    cameras: tuple[Float[np.ndarray, "b t 3 4"], Float[np.ndarray, "b t 3 3"]]
    latents: Float[np.ndarray, "b f h w 16"]
    evaluations: int = 0

    def scene(self, sample: int = 0, prompt: str = "") -> Scene:
        """One sample as exporters take it: its points are at the centres of pixels, unlike `pcds`."""
        depth, (w2c, intrinsics) = self.depth_maps[sample, ..., 0], (x[sample] for x in self.cameras)
        return Scene(
            rgb=np.floor(255 * self.rgbs[sample]).astype(np.uint8),
            depth=depth,
            confidence=self.depth_confidence[sample],
            w2c=homogeneous(w2c),
            intrinsics=intrinsics,
            points=unproject_depth(depth, w2c, intrinsics, offset=0.5),
            prompt=prompt,
        )


class Gen3RPipeline:
    """The networks of a folder made by ``python -m conversion gen3r``, and the way from conditions to a scene.

    Calling it again with other prompts, images, cameras, seeds, steps, solvers or strengths of guidance compiles
    nothing anew; other sizes, frame counts and batch sizes do, as do guidance at all and, with a step cache, other
    counts of steps.

    Attributes:
      stage: gives a context for each stage of the work ("Sampling"), to time or to tell of it; does nothing by default.
    """

    def __init__(
        self,
        load: Callable[[str], Network],
        tokenize: Callable[[Sequence[str], int], tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]],
        *,
        text_length: int,
        shift: float,
        joint: bool = True,
        memory_mode: MemoryMode = "resident",
    ):
        """See :meth:`from_pretrained`.

        Args:
          load: gives a network by its name in ``NETWORKS``.
          joint: whether the transformer makes appearance and geometry; else appearance alone, and VGGT reads the
            geometry from the video (the paper's "2-Stage").
        """
        if memory_mode not in get_args(MemoryMode):
            raise UserError(f"memory_mode {memory_mode!r} is none of {', '.join(get_args(MemoryMode))}")
        self.shift = shift
        self.joint = joint
        self.memory_mode = memory_mode
        self.stage: Callable[[str], AbstractContextManager] = nullcontext
        self._load = load
        self._tokenize = tokenize
        self._text_length = text_length
        self._loaded: dict[str, Network] = {}
        self._prompts: dict[str, Float[np.ndarray, "n c"]] = {}

    @classmethod
    def from_pretrained(
        cls, path: Path | str, *, dtype: Any = None, memory_mode: MemoryMode = "resident"
    ) -> "Gen3RPipeline":
        """Opens a folder of converted weights; the networks are read when they are first needed.

        Args:
          dtype: of the weights; bfloat16 by default, on CPUs float32. VGGT's heads stay as they are stored.
          memory_mode: "resident" keeps every network; "staged" frees each after use and guides in two passes, so that
            the largest network and its activations are all that memory must hold.

        Raises:
          UserError: something is missing in the folder, or was not made for the rest. All of it is named.
        """
        path = Path(path)
        missing = [name for name in (*NETWORKS, "tokenizer", "scheduler.json") if not (path / name).exists()]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)}; make it with: python -m conversion gen3r --source CHECKPOINTS "
                f"--output {path}"
            )
        configs = {name: read_config(path / name, network_class) for name, network_class in NETWORKS.items()}
        tokenizer = Tokenizer.from_folder(path / "tokenizer")
        _refuse_misfits(path, configs, tokenizer)
        dtype = default_dtype(dtype)
        return cls(
            lambda name: load_network(path / name, NETWORKS[name], dtype=dtype, exact=EXACT.get(name, ())),
            tokenizer,
            text_length=configs["wan_dit"].text_len,
            shift=read_shift(path),
            joint=configs["wan_dit"].shared_halves,
            memory_mode=memory_mode,
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        control_images: Float[np.ndarray, "b k h w 3"],
        control_cameras: Float[np.ndarray, "b t h w 6"] | None = None,
        *,
        control_frames: Sequence[int] | None = None,
        negative_prompt: str = "bad detailed",
        num_frames: int = 49,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        cfg_skip_ratio: float = 0.0,
        step_cache: float = 0.0,
        solver: str = "euler",
        shift: float | None = None,
        seed: int = 42,
        latents: Float[np.ndarray, "b f h w2 16"] | None = None,
        posterior_noise: Float[np.ndarray, "b f h w 16"] | None = None,
        callback_on_step_end: Callback | None = None,
        min_max_depth_mask: bool = False,
    ) -> Gen3RPipelineOutput:
        """Generates one scene for each prompt.

        Args:
          prompt: one text, or one for each sample.
          control_images: the frames that are given, in [0, 1]; sides are multiples of 112.
          control_cameras: Plücker maps (moment, direction) of every frame; None leaves the cameras free.
          control_frames: which frames are given; by default the first, the first and the last, or all, by their number.
          num_frames: 4k+1.
          guidance_scale: 1 and below: no guidance, and the negative prompt is not used.
          cfg_skip_ratio: so large a part of the steps, the last ones, runs without guidance.
          step_cache: above 0, steps whose velocity should hardly differ take over that of the step before
            (:mod:`gen3r_jax.diffusion.step_cache`); 0.1 is moderate. What it costs in quality shows only on the input.
          solver: "euler" (the official choice), "unipc" or "dpm++".
          shift: of the noise schedule towards noise; by default that of the weights, 5 for the other solvers.
          seed: sample i of a batch depends on `seed` and i alone, not on the batch or the memory mode.
          latents: standard normal noise to start from, instead of that of the seed; w2 is 2 w for [A ; G] side by side.
          posterior_noise: standard normal noise ``b f h w 16`` that draws the latents of the given frames.
          callback_on_step_end: called with the step's index, its timestep and the latents (on the device).
          min_max_depth_mask: let `point_masks` leave out the nearest and farthest depths of each frame too.

        Raises:
          UserError: sizes, counts or settings that do not fit, each with what would.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        images = np.asarray(control_images)
        given = _check(prompts, images, control_cameras, control_frames, num_frames)
        images = images.astype(np.float32)
        _check_settings(guidance_scale, cfg_skip_ratio, step_cache)
        b, _, height, width, _ = images.shape
        shape = (b, (num_frames - 1) // 4 + 1, height // 8, width // 8, 16)
        wide = (*shape[:3], shape[3] * (1 + self.joint), 16)
        for name, noise, wanted in (("latents", latents, wide), ("posterior_noise", posterior_noise, shape)):
            if noise is not None and np.shape(noise) != wanted:
                raise UserError(f"{name} need the shape {list(wanted)}, not {list(np.shape(noise))}")
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(b))
        if shift is None:
            shift = self.shift if solver == "euler" else 5.0
        schedule = make_schedule(solver, num_inference_steps, shift)

        guided = guidance_scale > 1
        texts = self.encode_prompt([negative_prompt] * b * guided + prompts)
        with self._network("clip_vision", "Encoding the image") as clip_vision:
            image_features = jax.block_until_ready(programs.encode_image(clip_vision, images[:, 0]))
        mask = np.broadcast_to(frame_mask(given, num_frames), (b, num_frames))
        with self._network("wan_vae", "Encoding the given frames") as wan_vae:
            noise = programs.noise(keys, 1, shape) if posterior_noise is None else posterior_noise
            clip = _fill(images, given, num_frames)
            given_latents = jax.block_until_ready(programs.encode_given(wan_vae, clip, mask, noise, joint=self.joint))
        if latents is None:
            latents = programs.noise(keys, 0, wide)
        z, evaluations = self.sample(
            latents,
            texts,
            image_features,
            given_latents,
            control_cameras,
            schedule,
            guidance_scale=guidance_scale,
            cfg_skip_ratio=cfg_skip_ratio,
            step_cache=step_cache,
            callback=callback_on_step_end,
        )
        return dataclasses.replace(self.decode(z, min_max_depth_mask), evaluations=evaluations)

    def sample(
        self,
        latents: Float[Array, "b f h w 16"],
        texts: Float[Array, "p n c"],
        image_features: Float[Array, "b 257 e"],
        given: Float[Array, "b f h w 20"],
        cameras: Float[np.ndarray, "b t H W 6"] | None,
        schedule: Schedule,
        *,
        guidance_scale: float = 5.0,
        cfg_skip_ratio: float = 0.0,
        step_cache: float = 0.0,
        callback: Callback | None = None,
    ) -> tuple[Float[Array, "b f h w 16"], int]:
        """Latents Z from noise, and how many steps ran the transformer.

        Args:
          latents: standard normal noise.
          texts: features of the prompts; with guidance those of the negative prompts stand before them.
          given: see :func:`gen3r_jax.diffusion.conditioning.condition`.
        """
        b, f, h, w, _ = latents.shape
        if cameras is None:
            cameras = np.zeros((b, 4 * f - 3, 8 * h, 8 * w // (1 + self.joint), 6), np.float32)
        with self._network("wan_dit", "Sampling") as dit:
            conditions = programs.prepare(dit, texts, image_features, given, cameras)
            steps = len(schedule.timesteps)
            evaluated = np.ones(steps, bool)
            if step_cache > 0:
                evaluated = evaluated_steps(fetch(programs.modulations(dit, schedule.timesteps)), step_cache)
            skip_from = steps * (1 - cfg_skip_ratio)
            z = self._denoise(dit, schedule, evaluated, latents, conditions, guidance_scale, skip_from, callback)
            return jax.block_until_ready(z), int(evaluated.sum())

    def encode_prompt(self, texts: Sequence[str]) -> Float[np.ndarray, "b n c"]:
        """Features of texts by the text encoder; rows beyond a text are zero. They are kept for the next call."""
        new = list(dict.fromkeys(text for text in texts if text not in self._prompts))
        if new:
            ids, mask = self._tokenize(new, self._text_length)
            with self._network("umt5", "Encoding the text") as umt5:
                # One by one: the first call has a negative prompt beside the prompt, and later calls have not.
                features = [fetch(programs.encode_text(umt5, ids[i, None], mask[i, None]))[0] for i in range(len(new))]
            self._prompts |= zip(new, features, strict=True)
        self._prompts = {text: self._prompts[text] for text in texts}  # 8 MB each
        return np.stack([self._prompts[text] for text in texts])

    def reconstruct_cameras(
        self, images: Float[np.ndarray, "k h w 3"]
    ) -> tuple[Float[np.ndarray, "k 3 4"], Float[np.ndarray, "k 3 3"], float]:
        """What VGGT sees in given frames: world-to-camera matrices, intrinsics in pixels and the median depth."""
        with self._network("vggt", "Finding the cameras of the given frames") as vggt:
            geometry = fetch(programs.reconstruct(vggt, np.asarray(images, np.float32)[None]))
        w2c, intrinsics = decode_pose(geometry.pose_encs[-1, 0], images.shape[1:3])
        # The lower of the two middle values, as the official code's median takes it.
        depth = np.sort(geometry.depth, axis=None)
        return np.asarray(w2c), np.asarray(intrinsics), float(depth[(depth.size - 1) // 2])

    def decode(self, latents: Float[Array, "b f h w 16"], min_max_depth_mask: bool = False) -> Gen3RPipelineOutput:
        """Video and geometry of latents Z."""
        appearance, *geometry = jnp.split(jnp.asarray(latents), 1 + self.joint, axis=3)
        with self._network("wan_vae", "Decoding the video") as wan_vae:
            rgbs = fetch(programs.decode_video(wan_vae, appearance))
        if self.joint:
            with self._network("geometry_adapter", "Decoding the geometry") as adapter:
                packed = jax.block_until_ready(programs.decode_adapter(adapter, *geometry))
        with self._network("vggt", "Reading depth and cameras") as vggt:
            read: Geometry = fetch(
                programs.read_geometry(vggt, packed) if self.joint else programs.reconstruct(vggt, rgbs)
            )
        w2c, intrinsics = decode_pose(read.pose_encs[-1], rgbs.shape[2:4])
        return Gen3RPipelineOutput(
            rgbs=rgbs,
            depth_maps=read.depth[..., None],
            depth_confidence=read.confidence,
            point_maps=read.points,
            pcds=unproject_depth(read.depth, np.asarray(w2c), np.asarray(intrinsics)),
            point_masks=depth_mask(read.depth, min_max_depth_mask),
            cameras=(np.asarray(w2c), np.asarray(intrinsics)),
            latents=fetch(latents),
        )

    def _denoise(
        self,
        dit: Network,
        schedule: Schedule,
        evaluated: Bool[np.ndarray, " n"],
        latents: Float[Array, "b f h w 16"],
        conditions: "programs.Conditions",
        guidance_scale: float,
        skip_from: float,
        callback: Callback | None,
    ) -> Float[Array, "b f h w 16"]:
        """All steps of the solver. The host only hands out each step's numbers and never waits for the device."""
        passes: programs.Passes = "in turn" if self.memory_mode == "staged" else "batched"
        if guidance_scale <= 1:
            passes = "one"
        # Where the weights are: an array that is free to move would make the first step a program of its own.
        state = programs.begin(jax.device_put(latents, conditions.given.sharding))
        guidance_scale = np.float32(guidance_scale)
        for i, (timestep, coefficients) in enumerate(schedule):
            if passes != "one" and i >= skip_from:
                passes, conditions = "one", conditions.positive(len(latents))
            if evaluated[i]:
                step = dit, state, conditions, timestep, coefficients, guidance_scale, passes
                state, velocity = programs.step(*step)
            else:
                state = programs.follow(state, velocity, coefficients)
            if callback is not None:
                callback(i, float(timestep), state.sample)
        return state.sample

    def network(self, name: str) -> Network:
        """A network of ``NETWORKS``; it stays loaded in memory mode "resident"."""
        if name not in self._loaded:
            with self.stage(f"Loading {name}"):
                network = jax.block_until_ready(self._load(name))
            if self.memory_mode == "staged":
                return network
            self._loaded[name] = network
        return self._loaded[name]

    @contextmanager
    def _network(self, name: str, stage: str) -> Iterator[Network]:
        """A network for a stage of the work, which must have its results when it ends: memory may be freed then."""
        network = self.network(name)
        with self.stage(stage):
            yield network
        if self.memory_mode == "staged":  # now, whoever still holds it
            jax.tree.map(lambda x: x.delete(), network)


def default_dtype(dtype: Any = None) -> np.dtype:
    """`dtype`, or that in which weights are held unless told otherwise: bfloat16, on CPUs float32."""
    return jnp.dtype(dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"))


def _refuse_misfits(path: Path, configs: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    dit, umt5 = configs["wan_dit"], configs["umt5"]
    pairs = {
        "wan_dit.text_dim and umt5.dim": (dit.text_dim, umt5.dim),
        "wan_dit.image_dim and clip_vision.dim": (dit.image_dim, configs["clip_vision"].dim),
        "wan_dit.camera_channels and six numbers of four frames": (dit.camera_channels, 24),
        "geometry_adapter.input_dim and ten times vggt.embed_dim": (
            configs["geometry_adapter"].input_dim,
            10 * configs["vggt"].embed_dim,
        ),
    }
    misfits = [f"{names} are {one} and {other}" for names, (one, other) in pairs.items() if one != other]
    if tokenizer.size > umt5.vocab_size:
        misfits.append(f"the tokenizer knows {tokenizer.size} words, umt5 {umt5.vocab_size}")
    if misfits:
        raise UserError(f"what lies in {path} was not made for each other: {'; '.join(misfits)}")


def _check(
    prompts: Sequence[str],
    images: np.ndarray,
    cameras: np.ndarray | None,
    control_frames: Sequence[int] | None,
    num_frames: int,
) -> tuple[int, ...]:
    """Refuses what cannot work before anything slow begins; returns the indices of the given frames."""
    if images.ndim != 5 or images.shape[-1] != 3:
        raise UserError(f"control_images need the shape [b, k, h, w, 3], not {list(images.shape)}")
    if not images.size:
        raise UserError(f"control_images hold nothing: their shape is {list(images.shape)}")
    if not jnp.issubdtype(images.dtype, jnp.floating) or not (images.min() >= 0 and images.max() <= 1):
        raise UserError("control_images must be numbers from 0 to 1; divide colours of 8 bits by 255")
    b, k, height, width, _ = images.shape
    if b != len(prompts):
        raise UserError(f"{len(prompts)} prompts for {b} samples of control_images")
    require_side(height)
    require_side(width)
    require_clip_length(num_frames)
    if cameras is not None and np.shape(cameras) != (wanted := (b, num_frames, height, width, 6)):
        raise UserError(f"control_cameras need the shape {list(wanted)}, not {list(np.shape(cameras))}")
    if control_frames is None:
        if k not in (1, 2, num_frames):
            raise UserError(
                f"{k} control_images for {num_frames} frames: give 1, 2 or all {num_frames}, or say in "
                "control_frames which they are"
            )
        control_frames = {1: (0,), 2: (0, num_frames - 1)}.get(k, tuple(range(num_frames)))
    control_frames = tuple(int(frame) for frame in control_frames)
    if len(control_frames) != k:
        raise UserError(f"{k} control_images and {len(control_frames)} control_frames")
    frame_mask(control_frames, num_frames)
    return control_frames


def _check_settings(guidance_scale: float, cfg_skip_ratio: float, step_cache: float) -> None:
    if not 0 <= guidance_scale < math.inf:
        raise UserError(f"guidance_scale {guidance_scale} is negative or not finite; 1 means no guidance, 5 is usual")
    if not 0 <= cfg_skip_ratio <= 1:
        raise UserError(f"cfg_skip_ratio {cfg_skip_ratio} is not between 0 and 1")
    if not step_cache >= 0:
        raise UserError(f"step_cache {step_cache} is negative; 0 means none, 0.1 is moderate")


def _fill(images: np.ndarray, given: Sequence[int], num_frames: int) -> Float[np.ndarray, "b t h w 3"]:
    """The whole clip, black where nothing is given."""
    clip = np.zeros((images.shape[0], num_frames, *images.shape[2:]), np.float32)
    clip[:, list(given)] = images
    return clip
