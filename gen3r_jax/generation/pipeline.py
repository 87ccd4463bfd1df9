"""Gen3R: from some frames, a prompt and cameras to a scene whose video, depth, cameras and points agree.

The diffusion transformer samples Z = [A ; G]. A decodes to the video, G through the geometry adapter to VGGT's tokens,
from which VGGT's heads read depth and cameras (Gen3R, section 3.3).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from os import PathLike
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from conversion.pipeline_folder import find_weights
from gen3r_jax.carried import user_path
from gen3r_jax.diffusion.solvers import Schedule, make_schedule
from gen3r_jax.diffusion.step_cache import evaluated_steps
from gen3r_jax.diffusion.tasks import frame_mask
from gen3r_jax.errors import UserError
from gen3r_jax.export.run_report import RunReport, describe
from gen3r_jax.generation import programs
from gen3r_jax.generation.cameras import camera_maps, camera_poses, open_cameras, refuse_other_options
from gen3r_jax.generation.inputs import (
    Images,
    Inputs,
    as_prompts,
    as_size,
    check_batch,
    fill_clip,
    given_images,
    tell_other_sizes,
)
from gen3r_jax.generation.networks import Geometry, Network, finite
from gen3r_jax.generation.output import Gen3RPipelineOutput
from gen3r_jax.generation.rereading import require_source, reread
from gen3r_jax.generation.sampling import Callback, telling
from gen3r_jax.generation.settings import GenerationSettings, read_settings, read_shift
from gen3r_jax.generation.weights import Weights, default_dtype
from gen3r_jax.geometry.cameras import Cameras, Size, decode_pose
from gen3r_jax.geometry.points import depth_mask, unproject_depth
from gen3r_jax.models.sizes import latent_frames
from gen3r_jax.module import require_finite
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.sharding import fetch
from gen3r_jax.storage.hub import read_licence

MemoryMode = Literal["resident", "staged"]


class Gen3RPipeline:
    """The networks of a folder made by ``gen3r convert gen3r``, and the way from conditions to a scene.

    Calling it again with other prompts, images, cameras, seeds, steps, solvers or strengths of guidance compiles
    nothing anew; other sizes, frame counts and batch sizes do, as do guidance at all and, with a step cache, other
    counts of steps.

    Attributes:
      settings: size, frames, steps and guidance that the weights were made for; what a call leaves out is as here.
      stage: gives a context for each stage of the work ("Sampling"), to time or to tell of it; does nothing by default.
    """

    def __init__(
        self,
        load: Callable[[str], Network],
        tokenize: Callable[[Sequence[str], int], tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]] | None,
        *,
        text_length: int,
        shift: float,
        joint: bool = True,
        memory_mode: MemoryMode = "resident",
        settings: GenerationSettings | None = None,
        licence: str = "",
    ):
        """See :meth:`from_pretrained`.

        Args:
          load: gives a network by its name in ``NETWORKS``.
          shift: shift of the noise schedule that the transformer was trained with.
          joint: whether the transformer makes appearance and geometry; else appearance alone, and VGGT reads the
            geometry from the video (the paper's "2-Stage").
          licence: that of the weights, as run.json is to say it.
        """
        if memory_mode not in get_args(MemoryMode):
            raise UserError(f"memory_mode {memory_mode!r} is none of {', '.join(get_args(MemoryMode))}")
        self.shift = shift
        self.joint = joint
        self.memory_mode = memory_mode
        self.settings = settings or GenerationSettings()
        self.licence = licence
        self.stage: Callable[[str], AbstractContextManager] = nullcontext
        self._load = load
        self._tokenize = tokenize
        self._text_length = text_length
        self._loaded: dict[str, Network] = {}
        self._prompts: dict[str, Float[np.ndarray, "n c"]] = {}

    @classmethod
    def from_pretrained(
        cls, path: PathLike | str, *, dtype: Any = None, memory_mode: MemoryMode = "resident"
    ) -> "Gen3RPipeline":
        """Opens a folder of weights; the networks are read when they are first needed.

        Args:
          path: a folder of converted weights; an official folder, which is converted once; ``"pretrained/nano"``, the
            small model that is part of this package; or a repository of the Hugging Face Hub, such as
            ``"JaceyH919/Gen3R"`` or ``"owner/name@revision"``, which is downloaded and converted once.
          dtype: of the weights; bfloat16 by default, on CPUs float32. VGGT's heads stay as they are stored.
          memory_mode: "resident" keeps every network; "staged" frees each after use and guides in two passes, so that
            the largest network and its activations are all that memory must hold.

        Raises:
          UserError: something is missing in the folder, or was not made for the rest. All of it is named.
        """
        path = find_weights(path)
        weights = Weights(path, default_dtype(dtype))
        return cls(
            weights,
            weights.tokenizer,
            text_length=weights.configs["wan_dit"].text_len,
            shift=read_shift(path),
            joint=weights.configs["wan_dit"].shared_halves,
            memory_mode=memory_mode,
            settings=read_settings(path),
            licence=read_licence(path),
        )

    def load_lora(self, file: PathLike | str, scale: float = 1.0) -> None:
        """Adds a LoRA to the transformer, beside those that were added before; see :mod:`conversion.lora`.

        Weights and changes are added in float32 and then cast. No network is compiled anew.

        Args:
          file: safetensors of PEFT, diffusers, ComfyUI, kohya, lightx2v or a training of ours, or PEFT's folder.
          scale: how strong it is; 1 as it was trained, negative away from it.

        Raises:
          UserError: the file changes nothing of the transformer, or layers of other sizes.
        """
        if not isinstance(self._load, Weights):
            raise UserError(
                "only a pipeline that reads a folder of weights takes a LoRA: Gen3RPipeline.from_pretrained"
            )
        self._load.add_lora(user_path(file, "a LoRA"), scale)
        self._loaded.pop("wan_dit", None)

    def __call__(
        self,
        prompt: str | Sequence[str],
        images: Images = None,
        cameras: str | PathLike | Cameras | Float[np.ndarray, "b t h w 6"] | None = None,
        *,
        control_images: Float[np.ndarray, "b k h w 3"] | None = None,
        control_cameras: Float[np.ndarray, "b t h w 6"] | None = None,
        control_frames: Sequence[int] | None = None,
        camera_format: str | None = None,
        camera_angle: float | None = None,
        camera_distance: float | None = None,
        camera_easing: str | None = None,
        camera_scale: float | None = None,
        size: int | Size | None = None,
        fit: str = "crop",
        num_frames: int | None = None,
        negative_prompt: str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        cfg_skip_ratio: float | None = None,
        step_cache: float | None = None,
        solver: str | None = None,
        shift: float | None = None,
        seed: int | None = None,
        geometry: str | None = None,
        latents: Float[np.ndarray, "b f h w2 16"] | None = None,
        posterior_noise: Float[np.ndarray, "b f h w 16"] | None = None,
        callback_on_step_end: Callback | None = None,
        min_max_depth_mask: bool = False,
        progress: bool = True,
    ) -> Gen3RPipelineOutput:
        """Generates one scene for each prompt. What is left out is as in :attr:`settings`.

        Args:
          prompt: one text, or one for each sample; space around it is left out.
          images: the frames that are given: a path, a PIL image, an array or a list of these, scaled and cropped to
            `size`; for several prompts a list with those of each sample. An array ``b k h w 3`` in [0, 1], also as
            `control_images`, keeps its size.
          cameras: a preset, a camera file, or cameras; the same for all samples. None or "free" leaves them free.
            Plücker maps (moment, direction) of every frame are taken as they are, also as `control_cameras`.
          control_frames: which frames are given; by default the first, the first and the last, or all, by their number.
            Of a longer video or folder, frames are taken that are spread evenly over it.
          camera_format, camera_angle, camera_distance, camera_easing, camera_scale: see
            :func:`gen3r_jax.generation.cameras.camera_poses`.
          size: side, or (height, width), in pixels; multiples of 112.
          fit: how pictures of another aspect are brought to it: "crop", "whole" or "pad"; see
            :func:`gen3r_jax.generation.inputs.given_images`.
          num_frames: 4k+1.
          negative_prompt, num_inference_steps, guidance_scale, step_cache, solver, shift, seed, geometry: see
            :class:`gen3r_jax.generation.settings.GenerationSettings`; `cfg_skip_ratio` is its `guidance_skip`.
          latents: standard normal noise to start from, instead of that of the seed; w2 is 2 w for [A ; G] side by side.
          posterior_noise: standard normal noise ``b f h w 16`` that draws the latents of the given frames.
          callback_on_step_end: called with the step's index, its timestep and the latents (on the device).
          min_max_depth_mask: let `point_masks` leave out the nearest and farthest depths of each frame too.
          progress: whether stages and steps are told on standard error.

        Raises:
          UserError: sizes, counts or settings that do not fit, each with what would.
        """
        prompts = as_prompts(prompt)
        settings = self.settings.take(
            num_frames=num_frames,
            negative_prompt=negative_prompt,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_skip=cfg_skip_ratio,
            step_cache=step_cache,
            solver=solver,
            shift=shift,
            seed=seed,
            geometry=geometry,
        )
        require_source(settings.geometry, self.joint)
        camera_options = {"camera_format": camera_format, "camera_angle": camera_angle, "camera_scale": camera_scale}
        camera_options |= {"camera_distance": camera_distance, "camera_easing": camera_easing}
        images = images if control_images is None else check_batch(control_images, len(prompts))
        cameras = cameras if control_cameras is None else control_cameras
        told = {"prompts": prompts, "images": images, "fit": fit, "cameras": cameras, **camera_options}
        told |= {"latents": latents, "posterior_noise": posterior_noise, "min_max_depth_mask": min_max_depth_mask}
        told = {name: describe(value) for name, value in told.items() if value is not None}
        weights = self._load.described() if isinstance(self._load, Weights) else {}
        report = RunReport({**weights, **told, **vars(settings)}, quiet=not progress)
        if self.licence:
            report.results["licence"] = self.licence
        with self._telling(report):
            inputs = self.prepare(
                prompts,
                images,
                cameras,
                settings.num_frames,
                size,
                control_frames=control_frames,
                fit=fit,
                **camera_options,
            )
            report.options |= {"height": inputs.images.shape[2], "width": inputs.images.shape[3]}
            report.options["control_frames"] = list(inputs.given)
            callback = telling(callback_on_step_end, settings.num_inference_steps) if progress else callback_on_step_end
            z, evaluations = self._generate(inputs, settings, latents, posterior_noise, callback)
            output = self.decode(z, min_max_depth_mask)
            if settings.geometry != "generated":
                how = {"free_cameras": inputs.maps is None, "min_max_depth_mask": min_max_depth_mask}
                output = self.reread(output, settings.geometry, **how)
            if inputs.known is not None:
                output = output.without(~inputs.known, inputs.given)
        return dataclasses.replace(output, evaluations=evaluations, prompts=prompts, report=report)

    def prepare(
        self,
        prompts: Sequence[str],
        images: Images,
        cameras: Any = None,
        num_frames: int | None = None,
        size: int | Size | None = None,
        *,
        control_frames: Sequence[int] | None = None,
        fit: str = "crop",
        **camera_options: Any,
    ) -> Inputs:
        """What :meth:`__call__` is given, checked and brought to the form that the networks take."""
        prompts = as_prompts(prompts)
        num_frames = self.settings.take(num_frames=num_frames).num_frames
        size = as_size(self.settings.size if size is None else size)
        if images is None:
            raise UserError("no images: give the frames that are known, such as one picture of the first")
        refuse_other_options(cameras, **camera_options)
        cameras = open_cameras(cameras, camera_options.pop("camera_format", None))
        given = given_images(images, len(prompts), size, num_frames, control_frames, fit, cameras)
        common = prompts, given.images, given.places, num_frames, given.known
        size = given.images.shape[2:4]
        tell_other_sizes(size, num_frames, (self.settings.size, self.settings.num_frames))
        if cameras is None:
            return Inputs(*common)
        if isinstance(cameras, (np.ndarray, jax.Array)):
            if np.shape(cameras) != (wanted := (len(prompts), num_frames, *size, 6)):
                raise UserError(f"control_cameras need the shape {list(wanted)}, not {list(np.shape(cameras))}")
            return Inputs(*common, maps=require_finite("control_cameras are", np.asarray(cameras)))
        how = {"pad": fit == "pad", **camera_options}
        poses = [
            camera_poses(given.cameras, one, num_frames, self.reconstruct_cameras, stored, **how)
            for one, stored in zip(given.images, given.stored, strict=True)
        ]
        return Inputs(*common, poses, camera_maps(poses, size))

    def _generate(
        self,
        inputs: Inputs,
        settings: GenerationSettings,
        latents: Float[np.ndarray, "b f h w2 16"] | None,
        posterior_noise: Float[np.ndarray, "b f h w 16"] | None,
        callback: Callback | None,
    ) -> tuple[Float[Array, "b f h w 16"], int]:
        """Latents Z, and how many steps ran the transformer."""
        b, _, height, width, _ = inputs.images.shape
        shape = (b, latent_frames(inputs.num_frames), height // 8, width // 8, 16)
        wide = (*shape[:3], shape[3] * (1 + self.joint), 16)
        for name, noise, wanted in (("latents", latents, wide), ("posterior_noise", posterior_noise, shape)):
            if noise is not None and np.shape(noise) != wanted:
                raise UserError(f"{name} need the shape {list(wanted)}, not {list(np.shape(noise))}")
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(settings.seed)))(jnp.arange(b))
        shift = settings.shift
        if shift is None:
            shift = self.shift if settings.solver == "euler" else 5.0
        schedule = make_schedule(settings.solver, settings.num_inference_steps, shift)

        guided = settings.guidance_scale > 1
        texts = self.encode_prompt([settings.negative_prompt] * b * guided + list(inputs.prompts))
        with self._network("clip_vision", "Encoding the image") as clip_vision:
            image_features = finite("clip_vision", programs.encode_image(clip_vision, inputs.images[:, 0]))
        mask = np.broadcast_to(frame_mask(inputs.given, inputs.num_frames), (b, inputs.num_frames))
        with self._network("wan_vae", "Encoding the given frames") as wan_vae:
            noise = programs.noise(keys, 1, shape) if posterior_noise is None else posterior_noise
            clip = fill_clip(inputs.images, inputs.given, inputs.num_frames)
            given_latents = finite("wan_vae", programs.encode_given(wan_vae, clip, mask, noise, joint=self.joint))
        return self.sample(
            programs.noise(keys, 0, wide) if latents is None else latents,
            texts,
            image_features,
            given_latents,
            inputs.maps,
            schedule,
            guidance_scale=settings.guidance_scale,
            cfg_skip_ratio=settings.guidance_skip,
            step_cache=settings.step_cache,
            callback=callback,
        )

    def sample(
        self,
        latents: Float[AnyArray, "b f h w 16"],
        texts: Float[AnyArray, "p n c"],
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
            return finite("wan_dit", z), int(evaluated.sum())

    def encode_prompt(self, texts: Sequence[str]) -> Float[np.ndarray, "b n c"]:
        """Features of texts by the text encoder; rows beyond a text are zero. They are kept for the next call."""
        new = list(dict.fromkeys(text for text in texts if text not in self._prompts))
        if new:
            assert self._tokenize is not None
            ids, mask = self._tokenize(new, self._text_length)
            with self._network("umt5", "Encoding the text") as umt5:
                # One by one: the first call has a negative prompt beside the prompt, and later calls have not.
                features = [fetch(programs.encode_text(umt5, ids[i, None], mask[i, None]))[0] for i in range(len(new))]
            self._prompts |= zip(new, finite("umt5", features), strict=True)
        self._prompts = {text: self._prompts[text] for text in texts}  # 8 MB each
        return np.stack([self._prompts[text] for text in texts])

    def reconstruct_cameras(
        self, images: Float[np.ndarray, "k h w 3"]
    ) -> tuple[Float[np.ndarray, "k 3 4"], Float[np.ndarray, "k 3 3"], float]:
        """What VGGT sees in given frames: world-to-camera matrices, intrinsics in pixels and the median depth."""
        geometry = self.reconstruct(images)
        w2c, intrinsics = decode_pose(geometry.pose_encs[-1, 0], images.shape[1:3])
        # The lower of the two middle values, as the official code's median takes it.
        depth = np.sort(geometry.depth, axis=None)
        return np.asarray(w2c), np.asarray(intrinsics), float(depth[(depth.size - 1) // 2])

    def reconstruct(self, images: Float[np.ndarray, "k h w 3"]) -> Geometry:
        """Return what VGGT reads from given frames, as a batch of one."""
        with self._network("vggt", "Finding the cameras of the given frames") as vggt:
            return finite("vggt", fetch(programs.reconstruct(vggt, np.asarray(images, np.float32)[None])))

    def decode(self, latents: Float[AnyArray, "b f h w 16"], min_max_depth_mask: bool = False) -> Gen3RPipelineOutput:
        """Video and geometry of latents Z."""
        appearance, *geometry = jnp.split(jnp.asarray(latents), 1 + self.joint, axis=3)
        with self._network("wan_vae", "Decoding the video") as wan_vae:
            rgbs = finite("wan_vae", fetch(programs.decode_video(wan_vae, appearance)))
        if self.joint:
            with self._network("geometry_adapter", "Decoding the geometry") as adapter:
                packed = finite("geometry_adapter", programs.decode_adapter(adapter, *geometry))
        with self._network("vggt", "Reading depth and cameras") as vggt:
            read = fetch(programs.read_geometry(vggt, packed) if self.joint else programs.reconstruct(vggt, rgbs))
            finite("vggt", read)
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

    def reread(self, generated: Gen3RPipelineOutput, source: str, **how: Any) -> Gen3RPipelineOutput:
        """A generated scene with the geometry of another source; see :func:`gen3r_jax.generation.rereading.reread`."""
        with self._network("vggt", "Reading the geometry of the video") as vggt:
            video = finite("vggt", fetch(programs.reconstruct(vggt, generated.rgbs)))
        return reread(generated, video, source, **how)

    def _denoise(
        self,
        dit: Network,
        schedule: Schedule,
        evaluated: Bool[np.ndarray, " n"],
        latents: Float[AnyArray, "b f h w 16"],
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
        strength = np.float32(guidance_scale)
        for i, (timestep, coefficients) in enumerate(schedule):
            if passes != "one" and i >= skip_from:
                passes, conditions = "one", conditions.positive(len(latents))
            if evaluated[i]:
                step = dit, state, conditions, timestep, coefficients, strength, passes
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
    def _telling(self, report: RunReport) -> Iterator[None]:
        """Has a report time the stages of the work, beside what the user has for them."""
        before = self.stage

        @contextmanager
        def both(name: str) -> Iterator[None]:
            with before(name), report.stage(name):
                yield

        self.stage = both
        try:
            yield
        finally:
            self.stage = before

    @contextmanager
    def _network(self, name: str, stage: str) -> Iterator[Network]:
        """A network for a stage of the work, which must have its results when it ends: memory may be freed then."""
        network = self.network(name)
        with self.stage(stage):
            yield network
        if self.memory_mode == "staged":  # now, whoever still holds it
            jax.tree.map(lambda x: x.delete(), network)
