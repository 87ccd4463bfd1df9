"""The mixture of ten data sets that Gen3R is trained on (paper, section 4.1; the weights are the released trainer's).

`configs/dit.py` reads it: with `--config.data.source=ROOT`, sets are looked for below ROOT by these names, as
`gen3r prepare` (folders) or `gen3r pack` (shards) writes them.

Splits are made by `gen3r prepare`: RealEstate10K's own; for all others a hash of the scene's name, about 90/10, where
scenes that show the same place (clips of one video, parts of one segment) go together. `eval_*.txt` beside the lists
name the evaluation subsets: 200 scenes of re10k and dl3dv, 300 of co3d and wildrgbd, 80 of tartanair.
"""

# Folder, weight, largest stride, fewest frames of a scene. Scenes with fewer frames than a clip are filled up with
# copies of their first and last frame, as the released loader does: for MVImgNet that is all of them.
MIXTURE = (
    ("dl3dv", 1.0, 1, 49),
    ("acid", 1.0, 1, 49),
    ("co3d", 1.0, 1, 49),
    ("re10k", 1.0, 1, 49),
    ("wildrgbd", 1.0, 1, 49),
    ("tartanair", 1.0, 1, 49),
    ("waymo", 0.5, 1, 49),
    ("kitti360", 0.5, 1, 49),
    ("vkitti", 0.5, 1, 49),
    ("mvimgnet", 0.25, 1, 20),
)
