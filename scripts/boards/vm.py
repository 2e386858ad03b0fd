"""A whole arm64 computer with a kernel, systemd and a disk of its own: Debian 12 on two Cortex-A72 cores."""

from __future__ import annotations

from boards import machine
from boards.arm64 import ARM64
from boards.kind import BoardKind

# What a userland without a kernel does not need. busybox-static is the whole userland of the initial RAM disk.
_OWN_KERNEL = (
    *("busybox-static", "dbus", "e2fsprogs", "iproute2", "kmod", "linux-image-cloud-arm64", "sudo"),
    *("systemd", "systemd-sysv", "udev"),
)

VM = BoardKind(
    name="vm",
    form=machine,
    suite=ARM64.suite,
    architecture=ARM64.architecture,
    triplet=ARM64.triplet,
    emulator="qemu-system-aarch64",
    cpu="cortex-a72",
    cores=2,
    python=ARM64.python,
    packages=(*ARM64.packages, *_OWN_KERNEL),
    cpuinfo="",
    sys={},
)
