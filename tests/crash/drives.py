"""Drives that die, rot and come back, under load, in every default scheme.

    sudo python3 tests/crash/drives.py [--drives N ...] [--seed N]

Each store has its drives on loop-mounted ext4 images. Round by round:

1. Load; one drive (not the first, which is the metadata's home) is shut down under it. Nobody may be
   refused: at most the requests under way on that drive may fail. Everything is verified without it.
2. Killed, and started again without the drive: refused, unless told to accept that; all verified, and
   more is written.
3. The drive is back: what it missed is made again, and nothing else. Then another drive is taken away,
   so that every object of stripes needs the one that was repaired: all verified.
4. Bytes of segment files of one drive are changed: all reads are right, and the damage is repaired.

Standard library only; needs root and loop devices.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import mounts  # noqa: E402
import server_process  # noqa: E402
import workload  # noqa: E402

KIB, MIB = 1024, 1024 * 1024
SCHEMES = {2: "1+1", 3: "2+1", 4: "2+2", 5: "3+2"}
# Bodies up to 32 KiB lie in the metadata; here most do not.
SIZES = [(10, 0, 8 * KIB), (30, 33 * KIB, 200 * KIB), (15, MIB, 3 * MIB), (1, 33 * MIB, 36 * MIB)]


class Store:
    def __init__(self, workplace, count, arguments):
        self.drives = []
        for number in range(count):
            home = workplace.path / f"drive-{number}"
            home.mkdir()
            drive = mounts.ImageFileSystem("ext4", home, arguments.gib << 30)
            workplace.on_exit(drive.remove)
            drive.mount()
            self.drives.append(drive)
        self.binary = server_process.find_binary(arguments.binary)
        self.log = workplace.path / "log"
        self.cores = arguments.cores
        self.server = self.with_drives(range(count))
        workplace.on_exit(lambda: self.server.kill())

    def with_drives(self, numbers, *more):
        first, *others = [self.drives[n].path / "data" for n in numbers]
        flags = [word for path in others for word in ("--data", path)]
        self.admin = server_process.free_port()
        return server_process.Server(
            self.binary,
            first,
            self.log,
            [*flags, "--cores", self.cores, *more],
            {"OSTRAKON_ADMIN_LISTEN": f"127.0.0.1:{self.admin}"},
        )

    def restart(self, numbers, *more):
        self.server.kill()
        for drive in self.drives:
            if drive.mounted:
                drive.unmount()
            drive.mount()
        self.server = self.with_drives(numbers, *more)
        self.server.start()

    def counter(self, name):
        """Over all cores."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def status(self):
        done = subprocess.run(
            [self.binary, "status", "--json", "--admin", f"127.0.0.1:{self.admin}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return json.loads(done.stdout)


def repaired(store, seconds=60):
    """Waits until repair has had its time: its counter stands still."""
    last = -1
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = store.counter("ostrakon_runs_repaired_total")
        if now == last:
            return now
        last = now
        time.sleep(1.5)
    raise workload.Wrong(f"repair did not end within {seconds} s")


def rot(drive, draw, share):
    """Changes a byte in so many blocks of the files that hold shards."""
    changed = 0
    for path in sorted((drive.path / "data").glob("volume-*/segments/*.seg")):
        blocks = path.stat().st_size // 8192
        with path.open("r+b") as file:
            head = file.read(512)
            # Head u8 at 108 of the header: 2 is bulk, 3 is what reclaim moved (SPEC.md, 2.1).
            if head[108] not in (2, 3):
                continue
            for block in range(1, blocks):
                file.seek(block * 8192)
                bytes_there = file.read(8192)
                # Payload only: a directory begins with the batch's magic, and what is zero was never written.
                if not any(bytes_there) or bytes_there[:4] == b"OBAT" or draw.random() > share:
                    continue
                at = draw.randrange(8192)
                file.seek(block * 8192 + at)
                file.write(bytes([bytes_there[at] ^ 0x10]))
                changed += 1
    return changed


def life(count, arguments):
    begun = time.monotonic()
    draw = random.Random(f"{arguments.seed} {count}")
    name = SCHEMES[count]
    with server_process.Workplace(f"drives-{count}") as workplace:
        store = Store(workplace, count, arguments)
        server = store.server.start()
        load = workload.Load(arguments.workers, arguments.keys, f"{arguments.seed} {count}", sizes=SIZES)
        load.prepare(server)

        # 1. A drive dies under load.
        load.begin(server)
        time.sleep(arguments.load)
        before = load.counts()
        lost = draw.randrange(1, count)
        store.drives[lost].shut_down()
        time.sleep(arguments.load)
        load.end()
        after = load.counts()
        failed = after.cut_off - before.cut_off
        # Each worker has one request under way.
        if failed > arguments.workers:
            raise workload.Wrong(f"{name}: {failed} requests failed when one drive died")
        if after.acknowledged - before.acknowledged < 10:
            raise workload.Wrong(f"{name}: nothing went on without the drive")
        load.verify(server, f"{name}, drive {lost} dead")
        status = store.status()
        dead = [d for d in status["drives"] if any(v["read_only"] for v in d["volumes"])]
        if [d["directory"] for d in dead] != [str(store.drives[lost].path / "data")]:
            raise workload.Wrong(f"{name}: drive {lost} is dead, and the status is {status}")
        if status["scheme"] != name or status["failure_domain"] != "drive":
            raise workload.Wrong(f"{name}: {status}")

        # 2. Started without it.
        rest = [n for n in range(count) if n != lost]
        store.server.kill()
        refused = store.with_drives(rest)
        try:
            refused.start()
            raise workload.Wrong(f"{name}: started though a drive is missing")
        except server_process.NotReady as error:
            if "--missing-drives" not in str(error):
                raise
        store.restart(rest, "--missing-drives", "accept")
        load.verify(store.server, f"{name}, started without drive {lost}")
        missing = [d for d in store.status()["drives"] if d["directory"] is None]
        if [d["id"] for d in missing] != [d["id"] for d in dead]:
            raise workload.Wrong(f"{name}: drive {lost} is missing, and the status is {store.status()}")
        load.begin(store.server)
        time.sleep(arguments.load)
        load.end()
        if load.counts().cut_off > after.cut_off:
            raise workload.Wrong(f"{name}: requests failed while a drive was away")

        # 3. It is back, and another one goes.
        store.restart(range(count))
        made = repaired(store)
        if made == 0:
            raise workload.Wrong(f"{name}: nothing was repaired though the drive missed a load")
        store.restart(range(count))
        if again := repaired(store):
            raise workload.Wrong(f"{name}: {again} runs were repaired a second time")
        other = draw.choice([n for n in range(1, count) if n != lost] or [lost])
        rest = [n for n in range(count) if n != other]
        store.restart(rest, "--missing-drives", "accept")
        load.verify(store.server, f"{name}, drive {lost} back and drive {other} away")

        # 4. Rot.
        store.server.kill()
        changed = rot(store.drives[draw.randrange(1, count)], draw, 0.3)
        store.restart(range(count))
        load.verify(store.server, f"{name}, {changed} blocks changed")
        mended = repaired(store)
        if changed and not mended:
            raise workload.Wrong(f"{name}: {changed} blocks changed and nothing repaired")
        load.verify(store.server, f"{name}, repaired")
        store.server.stop()
        print(
            f"drives: {count} ({name}): drive {lost} died, {failed} requests with it; {made:.0f} runs made "
            f"again when it was back; {changed} blocks changed, {mended:.0f} runs mended; {load.summary()}; "
            f"nothing lost, nothing wrong; {time.monotonic() - begun:.0f} s; seed {arguments.seed}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--drives", type=int, nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--keys", type=int, default=20, help="of each worker")
    parser.add_argument("--load", type=float, default=2.0, help="seconds of load at a time")
    parser.add_argument("--gib", type=int, default=3, help="size of each (sparse) image")
    parser.add_argument("--cores", default="2", help="of the server")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    for count in arguments.drives:
        life(count, arguments)


main()
