"""What the commands that take a config have in common."""

import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from gen3r_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, with a preset after a colon.", lock_config=True)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Reads the command line. Whatever is wrong with it, or with the config file, becomes a UserError of one line."""
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            CONFIG.value.to_dict()  # a config file that cannot be read says so only now
    except (KeyError, AttributeError) as error:
        text = str(error.args[0]).replace("\\n", ". ").replace("\n", ". ")
        raise UserError("unknown config key: " + re.sub(r"[\\'\"]", "", text)) from error
    except Exception as error:  # absl, ml_collections and the config file each raise their own kinds
        last_line = str(error).strip().splitlines()[-1].strip()
        raise UserError(re.sub(r"^\w*Error: ", "", last_line)) from error
    return rest
