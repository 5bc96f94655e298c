"""File systems in image files, mounted for a test and taken away after it. Needs root.

Standard library only.
"""

import array
import fcntl
import os
import pathlib
import shutil
import subprocess
import time

# _IOR('X', 125, __u32): the same number for ext4 (EXT4_IOC_SHUTDOWN) and XFS (XFS_IOC_GOINGDOWN).
SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
# EXT4_GOING_FLAGS_NOLOGFLUSH and XFS_FSOP_GOING_FLAGS_NOLOGFLUSH: what is not in the file system's
# own log yet is lost.
WITHOUT_LOG_FLUSH = 2


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


def need(*programs):
    """Missing programs are an error and never a reason to skip."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)} (packages xfsprogs, e2fsprogs, mount)")
    if os.geteuid() != 0:
        raise SystemExit("mounting needs root")


class ImageFileSystem:
    def __init__(self, kind, directory, size_bytes):
        need("losetup", "mount", "umount", f"mkfs.{kind}")
        self.kind = kind
        self.image = pathlib.Path(directory) / f"{kind}.image"
        self.path = pathlib.Path(directory) / kind
        self.path.mkdir()
        with open(self.image, "wb") as image:
            image.truncate(size_bytes)
        quiet = {"ext4": ["-q", "-F", "-m", "0"], "xfs": ["-q", "-f"]}[kind]
        run(f"mkfs.{kind}", *quiet, self.image)
        self.device = run("losetup", "--find", "--show", self.image)
        self.mounted = False

    def mount(self):
        run("mount", "-t", self.kind, self.device, self.path)
        self.mounted = True

    def unmount(self, seconds=30):
        """The last use of it may end a moment after the process that had it."""
        end = time.monotonic() + seconds
        while self.mounted:
            try:
                run("umount", self.path)
                self.mounted = False
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def shut_down(self):
        """As if the machine had stopped: from here on the file system neither reads nor writes."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, array.array("I", [WITHOUT_LOG_FLUSH]))
        finally:
            os.close(directory)

    def check(self):
        """The file system's own checker, on the unmounted image."""
        if self.kind == "ext4":
            run("e2fsck", "-f", "-n", self.device)
        else:
            run("xfs_repair", "-n", self.device)

    def remove(self):
        try:
            self.unmount()
        except RuntimeError:
            run("umount", "--lazy", self.path)
            self.mounted = False
        if self.device:
            run("losetup", "--detach", self.device)
            self.device = None
        self.image.unlink(missing_ok=True)
