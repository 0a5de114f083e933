"""Hessians over several devices have the numbers of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def on_8_devices(check):
    """Run a check of `on_devices.py`, which ends with an error if a result differs."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.hessspec.on_devices", check]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_products_over_explicit_axes_are_those_of_one_device_and_devices_share_the_memory():
    on_8_devices("quick")


@pytest.mark.slow
@pytest.mark.parametrize("check", ["bases", "products", "verbs"])
def test_over_8_devices_all_is_as_on_one(check):
    on_8_devices(check)
