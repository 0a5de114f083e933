"""A study by real schedulers and workers: the same bytes, whoever does it and whatever dies."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from hessspec_mtl.cluster import team

ROOT = Path(__file__).parents[3]
KINDS = {"training", "predictions", "trace", "density", "gradients", "eigenspaces", "hutchinson"}

# Run by workers before their work: in the first unit of each kind, the process ends itself when the
# work is done and nothing of it is sent.
DEADLY = """\
import os, signal
from pathlib import Path
from hessspec_mtl.study.units import Bench

def do(self, work, unit, alive=Bench.do):
    alive(self, work, unit)
    try:
        (Path(os.environ["DEATHS"]) / unit.kind).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

Bench.do = do
"""


@pytest.mark.any_dtype
def test_more_workers_than_there_is_memory_for_are_refused(monkeypatch):
    monkeypatch.setattr(team, "host_memory", lambda: 8 * 2**30)
    team.require_room_for(16)
    with pytest.raises(
        ValueError, match=r"at most 16 on this machine, got 1000: .* there are 8 GB"
    ):
        team.require_room_for(1000)


def began_with() -> dict[str, str]:
    """The environment that this process was started with, whatever was set in it since."""
    pairs = Path("/proc/self/environ").read_text(encoding="utf-8").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if pair)


@pytest.mark.any_dtype
@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_workers_begin_with_one_thread_and_a_place_where_they_share_programs(monkeypatch):
    """JAX reads that place when it is imported, which may be before a worker sets anything. It is
    gone with the workers, and their variables are not this process's."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before, places = dict(os.environ), []
    for _ in range(2):
        with team.local_workers(1) as client:
            (there,) = client.run(began_with).values()
        places.append(Path(there["JAX_COMPILATION_CACHE_DIR"]))
        assert there["PJRT_NPROC"] == "1"
        assert there["OMP_NUM_THREADS"] == "3"  # where somebody has set it
        assert "MALLOC_TRIM_THRESHOLD_" not in there
        assert dict(os.environ) == before
    assert places[0] != places[1]
    assert not any(place.exists() for place in places)


@pytest.mark.any_dtype
def test_what_listens_and_is_no_scheduler_is_not_waited_for_for_ever(monkeypatch):
    """As the port of a dashboard does, where one is mistaken for the other."""
    monkeypatch.setattr(team, "_PATIENCE", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        refused = pytest.raises(team.ClusterError, match="no Dask scheduler answers at 'tcp://127")
        with refused, team.workers_at(address):
            pass


@pytest.mark.any_dtype
@pytest.mark.parametrize("address", ["localhost", "http://127.0.0.1:8786", "tls://127.0.0.1:8786"])
def test_an_address_that_is_none_is_told_in_a_sentence(address):
    refused = pytest.raises(team.ClusterError, match=f"no Dask scheduler answers at '{address}' ")
    with refused, team.workers_at(address):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(site, here):
    for count in ("1", "2"):
        done = site.run(f"by-{count}", "--workers", count)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert site.results(f"by-{count}") == here


@pytest.mark.slow
def test_a_worker_that_dies_in_any_kind_of_unit_has_it_done_elsewhere(site, here):
    """The workers have folders of their own: everything is sent, and nothing shared."""
    (site.root / "deadly.py").write_text(DEADLY)
    (site.root / "deaths").mkdir()
    address = f"tcp://127.0.0.1:{free_port()}"
    more = ("--preload", str(site.root / "deadly.py"))
    with ExitStack() as stack:
        stack.enter_context(site.scheduler(int(address.rpartition(":")[2])))
        for _ in range(2):
            deaths = str(site.root / "deaths")
            stack.enter_context(site.worker(address, *more, DEATHS=deaths))
        done = site.run("deadly", "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (site.root / "deaths").iterdir()} == KINDS
    assert site.results("deadly") == here


@pytest.mark.slow
def test_a_scheduler_that_dies_ends_the_command_in_a_sentence_and_loses_nothing(site, here):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as stack:
        scheduler = stack.enter_context(site.scheduler(port))
        stack.enter_context(site.worker(address))
        command = stack.enter_context(
            site.process(*site.command("orphan", "--scheduler", address)[2:])
        )
        finished = wait_for_results(site, "orphan", command)
        scheduler.kill()
        assert command.wait(300) == 1
        log = next(path for path in sorted(site.root.glob("process-*/log"))[::-1])
        assert "Stopped: the scheduler is gone" in log.read_text()
        assert "Traceback" not in log.read_text()
    times = {path: path.stat().st_mtime_ns for path in finished}
    with site.scheduler(port), site.worker(address):
        done = site.run("orphan", "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert site.results("orphan") == here
    assert {path: path.stat().st_mtime_ns for path in finished} == times


@pytest.mark.slow
def test_a_stop_by_hand_ends_the_workers_and_loses_nothing(site, here):
    """As a terminal does it: the signal goes to the command and to its workers."""
    with site.process(*site.command("stopped", "--workers", "2")[2:]) as command:
        finished = wait_for_results(site, "stopped", command)
        members = in_session(command.pid)
        assert len(members) >= 3
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(60) == 130
        log = next(path for path in sorted(site.root.glob("process-*/log"))[::-1])
        said = log.read_text()
        assert "Stopped. The same command goes on from here." in said
        assert "Traceback" not in said
        time.sleep(2)
        assert not in_session(command.pid)
    times = {path: path.stat().st_mtime_ns for path in finished}
    done = site.run("stopped", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert site.results("stopped") == here
    assert {path: path.stat().st_mtime_ns for path in finished} == times


# Stands for a batch system on this machine: `srun` starts two of the sixteen tasks.
SRUN = """\
#!/bin/sh
shift 2
"$@" & "$@" & wait
"""


@pytest.mark.slow
def test_the_batch_script_of_the_page_does_the_study(site, here):
    """As far as a machine without a batch system can tell: `srun` is two processes at once."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```sh\n(#!/bin/bash\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "srun --ntasks=16 --overlap dask worker" in script
    words = site.command("batch", "--scheduler", "$address")[3:]
    script = script.replace("--preset compare --scheduler $address", " ".join(words))
    script = script.replace("8786", str(free_port())).replace("8787", str(free_port()))
    folder = site.root / "batch system"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    for name, text in {"srun": SRUN, "hostname": "#!/bin/sh\necho 127.0.0.1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "job.sh").write_text(script)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = subprocess.Popen(
        ["bash", "job.sh"],
        cwd=folder,
        env={**site.environment, "PATH": path},
        start_new_session=True,
    )
    try:
        assert job.wait(1500) == 0
    finally:
        os.killpg(job.pid, signal.SIGTERM)  # as the system ends a job whose script has ended
    assert site.results("batch") == here


@pytest.mark.slow
def test_what_a_unit_raises_is_told_as_if_it_had_been_done_here(site):
    done = site.run("steep", "--workers", "2", "--learning-rate", "1e30")
    assert done.returncode == 1
    assert "Stopped: the " in done.stderr
    assert "Lower `learning_rate`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_no_scheduler_is_told_in_a_sentence(site):
    done = site.run("nobody", "--scheduler", f"tcp://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "Stopped: no Dask scheduler answers at 'tcp://127.0.0.1" in done.stderr


def wait_for_results(site, name: str, command: subprocess.Popen[str]) -> list:
    """Until a run has two results: their files."""
    while command.poll() is None:
        finished = list((site.root / name).rglob("*.npz"))
        if len(finished) >= 2:
            return finished
        time.sleep(0.2)
    pytest.fail("the command ended before it had two results")


def in_session(session: int) -> list[str]:
    """Processes of a session that have not ended."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True
    )
    return [line for line in listed.stdout.splitlines() if line.split()[1][0] != "Z"]
