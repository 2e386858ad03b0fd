"""No internet: what was fetched is enough, in a network namespace that has a loopback and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from edgekit.profiles import profile
from edgekit.runtimes import resolve, wheelhouse
from tests.deploy.conftest import Models
from tests.deploy.kit import User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")

# SIOCSIFFLAGS: the loopback of a new namespace is down.
LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket() as opened:
    fcntl.ioctl(opened, 0x8914, struct.pack("16sh", b"lo", 1 | 64))
assert [name for _, name in socket.if_nameindex()] == ["lo"]
os.execvp(sys.argv[1], sys.argv[1:])
"""
ALONE = ("unshare", "--net", sys.executable, "-c", LOOPBACK)


def test_a_copied_cache_is_all_that_a_deploy_without_a_network_needs(models: Models, tmp_path: Path) -> None:
    """Every process is watched: none starts pip or turns to an address that is not this computer's."""
    stick, trace = tmp_path / "stick", tmp_path / "trace"
    for wheel in resolve.choose(profile.find("host")):
        folder = Path("wheels", f"{wheel.package}-{wheel.version}")
        shutil.copytree(wheelhouse.cache_root() / folder, stick / folder)
    watch = ("strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve")
    user = User(tmp_path, (*ALONE, *watch, "-s", "300", "-o", str(trace)))

    told = user.fail(2, "trust", "embedded")
    user.do("trust", "embedded", "--fingerprint", told["fields"]["fingerprint"])
    words = [*models.options("colours"), "-p", "host", "-o", tmp_path / "out"]
    done = user.do("deploy", models.folder / "colours.keras", "embedded", *words, EDGEKIT_CACHE=str(stick))
    assert done["status"]["state"] == "COMMITTED"
    assert done["bench"]["release"] == done["release"]

    calls = trace.read_text("utf-8", "replace")
    assert "worker" in calls  # TensorFlow's process was watched too
    assert not re.search(r'execve\(.*"pip"', calls)
    addresses = re.findall(r"sa_family=AF_INET6?.*?\}", calls)
    assert addresses  # the board is one
    assert [address for address in addresses if not re.search(r'"127\.|"::1"', address)] == []


def test_without_what_was_fetched_it_is_said_before_anything_is_converted(models: Models, tmp_path: Path) -> None:
    user = User(tmp_path, ALONE)
    told = user.fail(2, "trust", "embedded")
    user.do("trust", "embedded", "--fingerprint", told["fields"]["fingerprint"])
    empty = str(tmp_path / "empty")
    words = [*models.options("colours"), "-p", "host", "-o", tmp_path / "out"]
    error = user.fail(2, "deploy", models.folder / "colours.keras", "embedded", *words, EDGEKIT_CACHE=empty)
    assert "ai-edge-litert 2.3.0 for x86_64" in error["message"]
    assert "the package index cannot be reached" in error["message"]
    assert "edgekit fetch host" in error["hint"]
    assert not (tmp_path / "out").exists()
