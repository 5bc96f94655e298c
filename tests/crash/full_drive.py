"""A drive filled to the last block, emptied and filled again.

    sudo python3 tests/crash/full_drive.py [--mib 512] [--cycles 3] [--file-system ext4|xfs]

On a small loop-mounted file system: objects are put until the answer is 507; what was acknowledged
stays whole, overwrites that do not fit leave the earlier version, the server starts on the full drive
after a clean stop and after SIGKILL, everything can be deleted, and then as much fits as before.
Standard library only; needs root and loop devices.
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import mounts  # noqa: E402
import server_process  # noqa: E402
import workload  # noqa: E402

KIB, MIB = 1024, 1024 * 1024
# Space that deletes set free comes back when reclaim has copied what still lives.
RECLAIM_SECONDS_MAX = 120
# A refusal that lasts: the last free file may be on its way.
REFUSED_SECONDS = 2
# Of what fitted the first time, less the files that only a used store has: one for the relocate head
# of each volume, and one that is partly filled because the volumes do not fill evenly.
SHARE_AGAIN_MIN = 0.95
FILE_BYTES = 8 * MIB  # on drives this small
FILES_MORE_MAX = 2  # per volume


def fill(worker, size, names, expected=0):
    """Puts new keys until one is refused with 507. While fewer than `expected` bytes have been
    taken, space may still be coming back, and a refusal is only believed after a while. Returns the
    bytes that were acknowledged."""
    total, end, refusals = 0, None, 0
    while True:
        key = workload.Key(worker.shared, next(names))
        worker.keys.append(key)
        status = worker.write(key, size)
        if status == 200:
            total, end, refusals = total + size, None, 0
            continue
        worker.keys.pop()
        if status == 503:
            time.sleep(0.05)
            continue
        # The next key may belong to a volume with room.
        refusals += 1
        if refusals < 10:
            continue
        now = time.monotonic()
        end = end or now + (RECLAIM_SECONDS_MAX if total < expected else REFUSED_SECONDS)
        if now >= end:
            return total
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--mib", type=int, default=512, help="size of the drive")
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--file-system", choices=["ext4", "xfs"], default="ext4")
    parser.add_argument("--cores", default="2", help="of the server")
    arguments = parser.parse_args()
    begun = time.monotonic()
    with server_process.Workplace("full") as workplace:
        drive = mounts.ImageFileSystem(
            arguments.file_system, workplace.path, arguments.mib * MIB
        )
        workplace.on_exit(drive.remove)
        drive.mount()
        server = server_process.Server(
            server_process.find_binary(arguments.binary),
            drive.path / "data",
            workplace.path / "log",
            ["--cores", arguments.cores],
        ).start()
        workplace.on_exit(server.kill)
        worker = workload.Worker(0, 0, 0, "full")
        worker.connect(server)
        if worker.client.request("PUT", "full").status != 200:
            raise workload.Wrong("no bucket on an empty drive")
        names = (f"{worker.prefix}{n:07}" for n in range(10**7))

        def verify(when):
            worker.check_listing("full", "", worker.keys, when)
            for key in worker.keys:
                if not worker.check(key, when):
                    raise workload.Wrong(f"{when}: 503 for {key.name}")

        first = first_large = None
        for cycle in range(1, arguments.cycles + 1):
            # Large ones first, small ones into what is left: inline bodies and shards both end at
            # a full drive.
            volumes = len(list(server.data.glob("volume-*")))
            more = volumes * FILES_MORE_MAX * FILE_BYTES
            expected = SHARE_AGAIN_MIN * first_large - more if first else 0
            large = fill(worker, MIB, names, expected)
            middle = fill(worker, 100 * KIB, names)
            small = fill(worker, 4 * KIB, names)
            total = large + middle + small
            print(
                f"cycle {cycle}: {large / MIB:.0f} + {middle / MIB:.1f} + {small / MIB:.1f} MiB in "
                f"{len(worker.keys)} objects, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            if total < arguments.mib * MIB // 5:
                raise workload.Wrong(f"full after {total} bytes of {arguments.mib} MiB")
            if first is None:
                first, first_large = total, large
            elif total < expected:
                raise workload.Wrong(f"{total} bytes fitted, {first} the first time")
            # A put that is refused leaves what was there.
            refused = 0
            for key in worker.keys[:20]:
                before = key.states
                if worker.write(key, 3 * MIB) != 200:
                    refused += 1
                    if key.states != before:
                        raise workload.Wrong(f"{key.name}: not 507 on a full drive")
                if not worker.check(key, "full"):
                    raise workload.Wrong(f"full: 503 for {key.name}")
            if refused == 0:
                raise workload.Wrong("20 overwrites of 3 MiB fitted on a full drive")
            verify(f"cycle {cycle}, full")
            server.stop()
            worker.connect(server.start())
            verify(f"cycle {cycle}, full, after a clean stop")
            server.kill()
            worker.connect(server.start())
            verify(f"cycle {cycle}, full, after SIGKILL")
            for number, key in enumerate(worker.keys):
                while worker.delete(key) != 204:
                    time.sleep(0.05)
                if number == len(worker.keys) // 2:
                    verify(f"cycle {cycle}, half empty")
            verify(f"cycle {cycle}, empty")
            worker.keys.clear()
            if worker.client.list_all("full").keys:
                raise workload.Wrong("objects in an empty bucket")
        if worker.client.delete("full").status != 204:
            raise workload.Wrong("the emptied bucket cannot be removed")
        server.stop()
        counts = worker.counts
        print(
            f"full_drive: {arguments.cycles} cycles on {arguments.mib} MiB {arguments.file_system}, "
            f"{counts.acknowledged} writes acknowledged, {counts.refused} refused with 507, "
            f"{counts.verified} objects verified; {time.monotonic() - begun:.0f} s"
        )


main()
