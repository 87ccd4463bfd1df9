"""What the commands have in common that several machines may share: one folder for all, and each its part."""

from absl import flags

from gen3r_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; it is made when it is missing.")
PART = flags.DEFINE_string("part", "0/1", "This machine's part of the work: number/of how many.")


def read_part(text: str) -> tuple[int, int]:
    """``"1/4"`` -> (1, 4): the second of four machines that share the work."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UserError(f"--part {text!r} must be number/of how many, such as 0/4 to 3/4")
    return int(number), int(count)
