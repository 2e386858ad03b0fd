"""The disk of a machine, made from an unpacked tree: as on an SD card, a boot partition (FAT) and a root one (ext4).

Nothing in it is secret or of one board only: keys come with the initial RAM disk at each start.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edgekit_runtime.errors import DeviceError

from boards import repair
from boards.kind import UID, USER
from boards.servers import KEYS

DISK, KERNEL, INITRD = "board.img", "vmlinuz", "initrd"
_MIB = 1 << 20
_BOOT_START, _BOOT_MIB, _ROOT_MIB = 4, 92, 2000
_ROOT_START = _BOOT_START + _BOOT_MIB
_SECONDS = 600

_ACCOUNTS = "messagebus:x:101:101::/nonexistent:/usr/sbin/nologin\nsystemd-network:x:102:102::/:/usr/sbin/nologin\n"
_GROUPS = "messagebus:x:101:\nsystemd-network:x:102:\nsystemd-journal:x:103:\nkvm:x:104:\nrender:x:105:\ninput:x:106:\n"
_NETWORK = """\
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
"""
# No maintainer script has made the files that Debian's services include.
_PAM = "auth required pam_permit.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
_WANTED = ("ssh", "systemd-networkd")

# The first process: it finds the disk, gives the board its keys and its small and read-only places, and makes way.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
modprobe -a virtio_mmio virtio_blk
rounds=0
until [ -b /dev/vda2 ] || [ $rounds = 300 ]; do sleep 0.1; rounds=$((rounds + 1)); done
mount -t ext4 /dev/vda2 /root || exit
small=16M
for word in $(cat /proc/cmdline); do
    case $word in edgekit.small=*) small=${{word#*=}} ;; esac
done
mount -t tmpfs -o mode=755,uid={uid},gid={uid},size=$small tmpfs /root/{small}
mount -t tmpfs -o ro,mode=755,uid={uid},gid={uid},size=1M tmpfs /root/{readonly}
mount -t tmpfs -o mode=755,size=1M tmpfs /root/{keys}
cp -p /keys/* /root/{keys}/
umount /proc
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""


def make(tree: Path) -> Path:
    """A folder with the disk, the kernel and the initial RAM disk of a machine; the tree is used up.

    Raises:
        DeviceError: it cannot be made.
    """
    folder = tree.with_name("machine")
    folder.mkdir()
    (release,) = (tree / "lib/modules").iterdir()
    _call(["depmod", "--basedir", str(tree), release.name])
    _configure(tree)
    shutil.copyfile(tree / f"boot/vmlinuz-{release.name}", folder / KERNEL)
    (folder / INITRD).write_bytes(pack(_initrd(tree, release.name, folder.with_name("initrd"))))
    shutil.rmtree(tree / "boot")
    (tree / "boot").mkdir()
    _partition(tree, folder)
    shutil.rmtree(tree)
    return folder


def pack(folder: Path) -> bytes:
    """The folder as an archive that Linux unpacks at its start; such archives may follow each other."""
    names = "".join(f"{path.relative_to(folder)}\n" for path in sorted(folder.rglob("*")))
    argv = ["cpio", "--create", "--format=newc", "--owner=0:0", "--quiet"]
    return _call(argv, cwd=folder, stdin=names.encode())


def _configure(tree: Path) -> None:
    """What a kernel and systemd need over what `repair` has mended."""
    etc = tree / "etc"
    for name, text in (("passwd", _ACCOUNTS), ("group", _GROUPS), ("shadow", "messagebus:*:::::::\n")):
        with (etc / name).open("a") as file:
            file.write(text)
    sshd = etc / "ssh/sshd_config"
    lines = sshd.read_text("ascii").splitlines(keepends=True)
    texts = {
        "fstab": "/dev/vda2 / ext4 defaults 0 1\n",
        "machine-id": "",
        "pam.d/other": _PAM,
        "pam.d/sudo": _PAM,
        "ssh/sshd_config": "".join(line for line in lines if not line.startswith("SetEnv QEMU_CPU=")),
        "sudoers.d/010_pi-nopasswd": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
        "systemd/network/eth0.network": _NETWORK,
    }
    for name, text in texts.items():
        (etc / name).write_text(text, "ascii")
    (etc / "sudoers.d/010_pi-nopasswd").chmod(0o440)
    units = etc / "systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    for name in _WANTED:
        (units / f"multi-user.target.wants/{name}.service").symlink_to(f"/lib/systemd/system/{name}.service")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    shutil.chown(tree / "home" / USER, UID, UID)


def _initrd(tree: Path, release: str, folder: Path) -> Path:
    modules = folder / "lib/modules" / release
    (folder / "bin").mkdir(parents=True)
    modules.mkdir(parents=True)
    shutil.copy(tree / "usr/bin/busybox", folder / "bin/busybox")
    source = tree / "lib/modules" / release
    shutil.copy(source / "modules.dep", modules)
    for name in ("kernel/drivers/virtio", "kernel/drivers/block"):
        shutil.copytree(source / name, modules / name)
    init = folder / "init"
    init.write_text(_INIT.format(uid=UID, small=repair.SMALL, readonly=repair.READONLY, keys=KEYS), encoding="ascii")
    init.chmod(0o755)
    return folder


def _partition(tree: Path, folder: Path) -> None:
    """Sparse: what is never written takes no room."""
    boot = folder.with_name("boot.img")
    _call(["mkfs.vfat", "-C", "-n", "BOOT", str(boot), str(_BOOT_MIB * 1024)])
    _call(["mcopy", "-i", str(boot), str(folder / KERNEL), str(folder / INITRD), "::"])
    disk = folder / DISK
    with disk.open("wb") as file:
        file.seek(_BOOT_START * _MIB)
        file.write(boot.read_bytes())
        file.truncate((_ROOT_START + _ROOT_MIB) * _MIB)
    table = f"label: dos\nstart={_BOOT_START}MiB, size={_BOOT_MIB}MiB, type=c\nstart={_ROOT_START}MiB, type=83\n"
    _call(["sfdisk", "--quiet", str(disk)], stdin=table.encode())
    root = ["-E", f"offset={_ROOT_START * _MIB}", "-L", "root", "-d", str(tree), str(disk), f"{_ROOT_MIB}M"]
    _call(["mkfs.ext4", "-q", "-F", *root])


def _call(argv: list[str], *, cwd: Path | None = None, stdin: bytes = b"") -> bytes:
    done = subprocess.run(argv, input=stdin, capture_output=True, cwd=cwd, timeout=_SECONDS, check=False)
    if done.returncode:
        raise DeviceError(f"{argv[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
