"""What pyproject.toml cannot say: the wheel carries configs/ and pretrained/ inside gen3r_jax."""

from setuptools import find_namespace_packages, find_packages, setup

CARRIED = ("configs", "pretrained")

carried = find_namespace_packages(include=[f"{folder}*" for folder in CARRIED], exclude=["*__pycache__"])
carried = [f"gen3r_jax.{name}" for name in carried]

setup(
    packages=[*find_packages(include=["gen3r_jax*", "conversion*"]), *carried],
    package_dir={f"gen3r_jax.{folder}": folder for folder in CARRIED},
    package_data={name: ["*"] for name in carried}
    | {"gen3r_jax.export": ["*.html"], "gen3r_jax.serve.page": ["*.html", "*.js", "*.css"]},
)
