"""Text and image encoders for the nano model: ``python -m gen3r_jax.stages.drawn_encoders OUTPUT``

They have the shape of umT5 and CLIP at a few hundred thousand parameters and are drawn at random, not trained: every
word and every patch gets features of its own that depend on its neighbours, and the transformer learns to read them.
OUTPUT also gets the tokenizer, whose words are those that captions of procedural scenes are made of, the noise
schedule, and the settings with which the nano model generates.
"""

import argparse
from pathlib import Path

from gen3r_jax.data.procedural import VOCABULARY
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.models.registry import NETWORKS, PRESETS
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.stages.networks import SEEDS
from gen3r_jax.stages.random_weights import random_network
from gen3r_jax.storage.checkpoint import save_weights
from gen3r_jax.storage.files import write_json
from gen3r_jax.storage.hashes import write_hashes

SHIFT = 2.0
GENERATION = {
    "num_frames": 9,
    "height": 112,
    "width": 112,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "negative_prompt": "",
}


def write_encoders(output: Path) -> None:
    for name in ("umt5", "clip_vision"):
        config = PRESETS["nano"][name]
        save_weights(output / name, NETWORKS[name], config, random_network(NETWORKS[name], config, SEEDS[name]))
    tokenizer = Tokenizer.of_words(VOCABULARY)
    if tokenizer.size > PRESETS["nano"]["umt5"].vocab_size:
        raise UserError(
            f"the captions have {tokenizer.size} words, the text encoder {PRESETS['nano']['umt5'].vocab_size}"
        )
    tokenizer.save(output / "tokenizer")
    write_json(output / "scheduler.json", {"shift": SHIFT})
    write_json(output / "generation.json", GENERATION)
    write_hashes(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gen3r_jax.stages.drawn_encoders",
        description="Draws the text and image encoders of the nano model.",
    )
    parser.add_argument("output", type=Path, help="weights folder that gets them")
    write_encoders(parser.parse_args().output)


if __name__ == "__main__":
    main_guard(main)
