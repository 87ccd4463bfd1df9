"""ACID: clips of drones along coasts, in RealEstate10K's format (``realestate10k.py``).

Its own folders (train, test, perhaps more) are not taken for splits: Gen3R draws them anew for all sets but
RealEstate10K.
"""

from gen3r_jax.data.prepare.realestate10k import find, read
from gen3r_jax.data.prepare.recording import DataSet

DATA_SET = DataSet(
    name="acid",
    title="ACID",
    site="https://infinite-nature.github.io/",
    licence="not stated; videos: their owners'",
    scale="sfm",
    layout="<split>/<clip>.txt, here or one folder deeper",
    find=find,
    read=read,
)
