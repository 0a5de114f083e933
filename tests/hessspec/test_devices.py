"""Hessians over several devices have the numbers of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def on_8_devices(*words, processes=1):
    """Run a check of `on_devices.py`, which ends with an error if a result differs."""
    flags = f"--xla_force_host_platform_device_count={8 // processes}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.hessspec.on_devices", *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def passes(*running):
    """Wait for all of them to end without an error."""
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]


def test_products_over_explicit_axes_are_those_of_one_device_and_devices_share_the_memory():
    passes(on_8_devices("quick"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", ["bases", "products", "scalar", "several", "gauss_newton", "on_the_way"]
)
def test_over_8_devices_all_is_as_on_one(check):
    passes(on_8_devices(check))


def in_2_processes(check, *words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    passes(*[on_8_devices(check, str(i), address, *words, processes=2) for i in range(2)])


@pytest.mark.slow
def test_over_2_processes_all_is_as_on_one():
    in_2_processes("processes")


@pytest.mark.slow
def test_records_that_2_processes_save_apart_are_merged(tmp_path):
    in_2_processes("apart", str(tmp_path))


@pytest.mark.slow
def test_a_run_that_2_processes_keep_in_one_folder_goes_on(tmp_path):
    in_2_processes("kept_together", str(tmp_path))
