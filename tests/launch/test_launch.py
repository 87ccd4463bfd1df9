"""The launchers: what dry runs print, what is refused, and what they do when small scripts stand in for the tools.

Nothing here reaches a network, a cloud or a scheduler.
"""

import importlib.util
import mmap
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY

LAUNCH = REPOSITORY / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if os.access(path, os.X_OK))
ARGUMENTS = ["--config", "configs/dit.py", "--workdir", "gs://bucket/run1"]
TRAINING = ["python", "-m", "gen3r_jax.train", *ARGUMENTS]
CLOUD = ["--name", "run1", "--project", "p", "--zone", "us-east5-b", "--image", "us-docker.pkg.dev/p/r/gen3r:1"]
QUEUED = [*CLOUD, "--service_account", "trainer@p.iam.gserviceaccount.com"]
XPK = [*CLOUD, "--cluster", "c"]


@pytest.fixture
def stubs(tmp_path):
    """Makes programs that stand in for others: stubs(name="bash code"). Their calls are in the file `stubs.calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(**programs: str) -> None:
        for name, code in programs.items():
            (folder / name).write_text(f'#!/bin/bash\necho {name} "$@" >> "{make.calls}"\n{code}\n')
            (folder / name).chmod(stat.S_IRWXU)

    make.calls = tmp_path / "calls"
    make.folder = tmp_path
    make.environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return make


def launch(script, *arguments, environment=None):
    options = {"env": environment, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run([LAUNCH / script, *arguments], **options)


@pytest.fixture(scope="session")
def dry(tmp_path_factory):
    """Gives the commands of a dry run, split as a shell would; nothing but the shell and two tools is in the PATH."""
    folder = tmp_path_factory.mktemp("tools")
    for tool in ("bash", "dirname", "sed"):
        (folder / tool).symlink_to(shutil.which(tool))

    def commands(script, *arguments, training=ARGUMENTS):
        done = launch(script, *arguments, "--dry_run", "--", *training, environment={"PATH": str(folder)})
        assert done.returncode == 0 and not done.stderr, done.stderr
        return [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]

    return commands


@pytest.mark.parametrize(
    ("accelerator", "chip", "runtime"),
    [
        ("v5litepod-16", "v5e", "v2-alpha-tpuv5-lite"),
        ("v5p-32", "v5p", "v2-alpha-tpuv5"),
        ("v6e-64", "v6e", "v2-alpha-tpuv6e"),
    ],
)
def test_a_queued_resource_of_each_chip(dry, accelerator, chip, runtime):
    (create,) = dry("tpu_queued.sh", *QUEUED, "--accelerator", accelerator)
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "run1"]
    assert {f"--accelerator-type={accelerator}", f"--runtime-version={runtime}", "--node-id=run1"} <= set(create)
    assert "--spot" not in create and not any(word.startswith("--node-count") for word in create)
    assert shlex.split(_metadata(create)["gen3r-command"]) == ["launch/with_flags.sh", chip, *TRAINING]


def test_several_slices_that_may_be_taken_away(dry):
    odd = [*ARGUMENTS, "--config.train.phases=((25, 100, 1),)"]
    slices = ["--accelerator=v6e-16", "--slices=2"]
    (create,) = dry("tpu_queued.sh", *QUEUED, *slices, "--spot", training=odd)
    assert {"--spot", "--node-count=2", "--node-prefix=run1"} <= set(create)
    command = shlex.split(_metadata(create)["gen3r-command"])
    assert command[2:] == ["python", "-m", "gen3r_jax.train", *odd, "--config.mesh.data=2"]
    (own,) = dry("tpu_queued.sh", *QUEUED, *slices, training=[*odd, "--config.mesh.data=4"])
    assert "mesh.data=2" not in own[-1]
    kept = dry("tpu_queued.sh", *QUEUED, *slices, "--spot", "--keep", training=odd)
    verbs = [command[4] for command in kept if "queued-resources" in command]
    assert create in kept and verbs == ["list", "create", "delete"]


def _metadata(create):
    (text,) = (word for word in create if word.startswith("--metadata=^;;^"))
    return dict(entry.split("=", 1) for entry in text.removeprefix("--metadata=^;;^").split(";;"))


def test_a_job_set(dry):
    (create,) = dry("tpu_xpk.sh", *XPK, "--accelerator", "v5litepod-64", "--slices", "4", "--restarts", "7")
    assert create[:3] == ["xpk", "workload", "create"]
    assert {"--tpu-type=v5litepod-64", "--num-slices=4", "--max-restarts=7", "--workload=run1"} <= set(create)
    assert "--restart-on-exit-codes=1,75" in create
    (command,) = (word.removeprefix("--command=") for word in create if word.startswith("--command="))
    assert shlex.split(command) == ["exec", "launch/with_flags.sh", "v5e", *TRAINING, "--config.mesh.data=4"]
    cluster, _ = dry("tpu_xpk.sh", *XPK, "--accelerator=v5p-8", "--create_cluster", "--spot")
    assert cluster[:3] == ["xpk", "cluster", "create"] and "--spot" in cluster and "--on-demand" not in cluster


def test_a_slurm_job(dry, stubs):
    (submit,) = dry("slurm.sh", "--name=run1", "--nodes=4", "--partition=gpu", "--time=24:00:00")
    wanted = {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue", "--signal=TERM@600"}
    assert submit[0] == "sbatch" and wanted | {"--partition=gpu", "--time=24:00:00"} <= set(submit)
    job = submit[-1].removeprefix("--wrap=")
    assert f"launch/with_flags.sh h100 {shlex.join(TRAINING)}" in job
    # Only what was told to stop is queued again, and the job keeps the status of training.
    for status, again in ((143, True), (2, False), (0, False)):
        stubs(srun=f"exit {status}", scontrol="")
        stubs.calls.unlink(missing_ok=True)
        environment = stubs.environment | {"SLURM_JOB_ID": "17"}
        assert subprocess.run(["/bin/sh", "-c", job], env=environment, timeout=60).returncode == status
        assert ("scontrol requeue 17" in stubs.calls.read_text()) == again
    (inside,) = dry("slurm.sh", "--name=run1", "--nodes=1", "--image=gen3r.sqsh", "--mounts=/data:/data")
    assert "--container-image=gen3r.sqsh" in inside[-1] and "--container-mounts=/data:/data" in inside[-1]


def test_processes_on_hosts_and_here(dry):
    first, second = dry("processes.sh", "--hosts", "me@one,two", "--gpus", "4")
    assert first[:4] == ["ssh", "-o", "BatchMode=yes", "me@one"] and second[3] == "two"
    assert "--share 4,4,8,one" in second[-1] and shlex.join(ARGUMENTS) in second[-1]
    last = dry("processes.sh", "--share", "4,4,8,one")[-1]
    assert last[1:5] == [
        "GEN3R_COORDINATOR=one:12355",
        "GEN3R_NUM_PROCESSES=8",
        "GEN3R_PROCESS_ID=7",
        "CUDA_VISIBLE_DEVICES=3",
    ]
    assert last[5:] == ["launch/with_flags.sh", "h100", *TRAINING]
    (_, whole) = dry("processes.sh", "--hosts=one,two", "--per=node")
    assert "--share 1,1,2,one" in whole[-1]
    assert len(dry("processes.sh", "--local", "3")) == 3


PROCESS = """
trap 'echo saved $GEN3R_PROCESS_ID; exit 143' TERM
echo "$GEN3R_PROCESS_ID/$GEN3R_NUM_PROCESSES"
[[ ${FAILS-} != "$GEN3R_PROCESS_ID" ]] || { sleep 0.5 && exit 7; }
[[ ${ENDS-} ]] || for ((i = 0; i < 300; i++)); do sleep 0.1; done
"""
SSH = 'shift 3; exec bash -c "$*"'  # the "host" is this machine


@pytest.mark.parametrize("where", [["--local=4"], ["--hosts=one,two", "--gpus=2"]])
def test_processes_live_and_die_together(stubs, where):
    stubs(python=PROCESS, ssh=SSH)
    everyone = ["0/4", "1/4", "2/4", "3/4"]
    ended = launch("processes.sh", *where, "--", *ARGUMENTS, environment=stubs.environment | {"ENDS": "yes"})
    assert ended.returncode == 0 and sorted(ended.stdout.split()) == everyone, ended.stderr
    failed = launch("processes.sh", *where, "--", *ARGUMENTS, environment=stubs.environment | {"FAILS": "3"})
    assert failed.returncode == 7 and failed.stdout.count("saved") == 3 and "saved 3" not in failed.stdout
    command = [LAUNCH / "processes.sh", *where, "--", *ARGUMENTS]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, text=True) as running:
        started = [running.stdout.readline().strip() for _ in everyone]
        running.send_signal(signal.SIGTERM)
        rest = running.stdout.read()
        assert running.wait(60) == 143 and sorted(started) == everyone and rest.count("saved") == 4


def test_a_queued_resource_that_is_kept(stubs):
    """Not there; made; waiting; running; taken away; made again; running; over: deleted."""
    states = ["", "WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDED", "", "ACTIVE", "ACTIVE"]
    (stubs.folder / "states").write_text("\n".join(states) + "\n")
    gcloud = f"""
case "$*" in
  *list*) head -n 1 {stubs.folder}/states; sed -i 1d {stubs.folder}/states ;;
  *"storage cat"*) [[ ! -s {stubs.folder}/states ]] && echo 0 ;;
esac"""
    stubs(gcloud=gcloud, sleep="")
    arguments = [*QUEUED, "--accelerator=v6e-16", "--spot", "--keep", "--", *ARGUMENTS]
    done = launch("tpu_queued.sh", *arguments, environment=stubs.environment)
    assert done.returncode == 0 and "training ended with status 0" in done.stdout, done.stdout + done.stderr
    calls = [line.split()[4:6] for line in stubs.calls.read_text().splitlines() if "queued-resources" in line]
    calls = [verb for verb, _ in calls if verb != "list"]
    assert calls == ["create", "delete", "create", "delete"]


@pytest.mark.parametrize(
    ("slices", "ends", "report"),
    [(1, [1, 2, 0], "0"), (2, [1, 143], None), (2, [2, 2, 2, 2, 2], "2")],
    ids=["others were lost", "taken away", "it fails always"],
)
def test_a_machine_of_a_queued_resource(stubs, slices, ends, report):
    """The last of the four machines of the last slice finds its place, and tries again when that can help."""
    (stubs.folder / "ends").write_text("".join(f"{end}\n" for end in ends))
    several = f"MEGASCALE_NUM_SLICES: '{slices}'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.1.1'\n"
    (stubs.folder / "tpu-env").write_text("ACCELERATOR_TYPE: 'v6e-16'\n" + (several if slices > 1 else ""))
    stubs(
        curl=f"""case ${{@: -1}} in
  *gen3r-image) echo us-docker.pkg.dev/p/r/gen3r:1 ;;
  *gen3r-command) echo "{shlex.join(["launch/with_flags.sh", "v6e", *TRAINING])}" ;;
  *gen3r-status) echo gs://bucket/status ;;
  *agent-worker-number) echo 3 ;;
  *worker-network-endpoints) echo a:b:10.0.0.1,a:b:10.0.0.2,a:b:10.0.0.3,a:b:10.0.0.4 ;;
  *tpu-env) cat {stubs.folder}/tpu-env ;;
esac""",
        docker=f"""[[ $1 == run ]] || exit 0
end=$(head -n 1 {stubs.folder}/ends); sed -i 1d {stubs.folder}/ends; exit $end""",
        gcloud=f'[[ $1 != storage ]] || cat > {stubs.folder}/"$(basename "$4")"',
        sleep="",
    )
    done = launch("tpu_worker.sh", environment=stubs.environment)
    calls = stubs.calls.read_text()
    assert done.returncode == 0, done.stderr
    assert "gcloud auth configure-docker us-docker.pkg.dev --quiet" in calls
    assert f"bash -c exec launch/with_flags.sh v6e {shlex.join(TRAINING)}" in calls
    place = f"--env=GEN3R_NUM_PROCESSES={4 * slices} --env=GEN3R_PROCESS_ID={4 * slices - 1}"
    assert f"--env=GEN3R_COORDINATOR=10.0.{slices - 1}.1:8482 {place}" in calls
    assert not (stubs.folder / "ends").read_text()
    shown = launch("tpu_worker.sh", "--dry_run").stdout
    assert "docker pull <gen3r-image>" in shown and "bash -c exec <gen3r-command>" in shown
    told = stubs.folder / "status"
    assert (told.read_text().strip() if told.exists() else None) == report


@pytest.mark.parametrize(
    ("script", "arguments", "told"),
    [
        ("tpu_queued.sh", [*QUEUED, "--accelerator=v4-8"], "v4-8 is unknown"),
        ("tpu_queued.sh", [*QUEUED, "--accelerator=v6e-12"], "must be 1, 4, 8"),
        ("tpu_queued.sh", [*QUEUED, "--accelerator=v5p-12"], "steps of 8"),
        ("tpu_queued.sh", [*QUEUED, "--accelerator=v6e-8", "--slices=0"], "--slices 0"),
        ("tpu_queued.sh", [*QUEUED, "--accelerator=v6e-8", "--name=Run_1"], "--name Run_1"),
        ("tpu_queued.sh", CLOUD, "--accelerator is needed"),
        ("tpu_xpk.sh", [*XPK, "--accelerator=v6e-8", "--spot"], "--create_cluster"),
        ("tpu_xpk.sh", [*XPK, "--accelerators=v6e-8"], "unknown argument --accelerators"),
        ("slurm.sh", ["--name=run1"], "--nodes is needed"),
        ("slurm.sh", ["--name=run1", "--nodes", "--dry_run"], "--nodes --dry_run must be a number"),
        ("slurm.sh", ["--name=run1", "--nodes"], "needs a value"),
        ("processes.sh", [], "--hosts or --local"),
        ("processes.sh", ["--hosts=a;b"], "commas between"),
        ("processes.sh", ["--local=2", "--hosts=a"], "exclude each other"),
        ("processes.sh", ["--local=2", "--per=core"], "gpu or node"),
    ],
)
def test_what_is_refused(script, arguments, told):
    rest = [] if "--nodes" in arguments[-1:] else ["--", *ARGUMENTS]
    _refused(launch(script, *arguments, *rest), told)


def test_training_that_is_refused():
    queued = ["tpu_queued.sh", *QUEUED, "--accelerator=v6e-8", "--dry_run"]
    _refused(launch(*queued), "-- --config")
    _refused(launch(*queued, "--", "--config=configs/dit.py"), "--workdir")
    _refused(launch(*queued, "--", "--config=configs/no.py:tiny", "--workdir=gs://b/r"), "no config file configs/no.py")
    _refused(launch(*queued, "--", "--config=configs/dit.py:tiny", "--workdir=runs/x"), "gs://BUCKET/RUN")
    _refused(launch("with_flags.sh", "h200", "python"), "there are: h100 v5e v5p v6e")
    _refused(launch("with_flags.sh", "h100"), "a command are needed")
    _refused(launch("tpu_worker.sh", "--name"), "unknown argument --name")


def _refused(done, told):
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, (done.stdout, done.stderr)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script):
    done = launch(script, "--help")
    assert done.returncode == 0 and f"launch/{script}" in done.stdout and "--dry_run" in done.stdout


@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e", "h100"])
def test_flags_of_a_chip(chip):
    """Each flag has its reason on the line above it, and what the user has set comes last."""
    variable = "XLA_FLAGS" if chip == "h100" else "LIBTPU_INIT_ARGS"
    environment = {"PATH": os.environ["PATH"], variable: "--mine=1"}
    lines = launch("with_flags.sh", "--dry_run", chip, *TRAINING, environment=environment).stdout.splitlines()
    flags = shlex.split(lines[0])[1].removeprefix(f"{variable}=").split()
    assert len(flags) > 2 and flags[-1] == "--mine=1" and shlex.split(lines[-1]) == ["exec", *TRAINING]
    text = (LAUNCH / "flags" / f"{chip}.env").read_text().splitlines()
    assigned = [number for number, line in enumerate(text) if line.startswith("flags")]
    assert len(assigned) == len(flags) - 1 and all(text[number - 1].startswith("# ") for number in assigned)


def test_the_flags_of_gpus_exist():
    """XLA ends the process at a flag that it does not know."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = "--xla_force_host_platform_device_count=3"
    environment = {**os.environ, "PATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": own}
    code = "import jax, os; print(len(jax.devices()), os.environ['XLA_FLAGS'])"
    done = launch("with_flags.sh", "h100", "python", "-c", code, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 --xla_gpu") and done.stdout.rstrip().endswith(own)


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize("chip", ["v5e", "v5p", "v6e"])
def test_the_flags_of_tpus_exist(chip):
    shown = launch("with_flags.sh", "--dry_run", chip, "true", environment={"PATH": os.environ["PATH"]}).stdout
    flags = shlex.split(shown.splitlines()[0])[1].removeprefix("LIBTPU_INIT_ARGS=").split()
    library = Path(importlib.util.find_spec("libtpu").origin).with_name("libtpu.so")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        unknown = [flag for flag in flags if text.find(flag[2:].split("=")[0].encode()) < 0]
    assert flags and not unknown


def test_the_container_file():
    """No builder is needed to see that what it copies is there, that it is not root, and that no keys go in."""
    lines = (LAUNCH / "Containerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert {"pyproject.toml", "gen3r_jax", "configs", "launch"} <= set(copied)
    assert all((REPOSITORY / source).exists() for source in copied)
    assert lines.index("USER ${USER_ID}") > max(n for n, line in enumerate(lines) if line.startswith("RUN "))
    assert "ARG USER_ID=1000" in lines
    assert not any(word in line.upper() for line in lines for word in ("TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"))


def test_shellcheck():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.skip("shellcheck is not installed")
    files = [f"launch/{script}" for script in SCRIPTS] + [str(path) for path in LAUNCH.glob("flags/*.env")]
    done = subprocess.run([program, "-x", "-a", *files], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
