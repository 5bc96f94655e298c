"""A file system that stops under load, as in a power cut, on ext4 and XFS.

    sudo python3 tests/crash/shutdown.py [--rounds 4] [--file-system ext4|xfs] [--seed N]

Each round: load on a server whose data directory is on a loop-mounted image; the file system is shut
down by ioctl without flushing its log; the load goes on a little against the failing drive; the
server is killed, the file system unmounted and mounted, the server started, and everything that was
acknowledged verified. Standard library only; needs root and loop devices.
"""

import argparse
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import mounts  # noqa: E402
import server_process  # noqa: E402
import workload  # noqa: E402


def rounds_on(kind, arguments, draw):
    begun = time.monotonic()
    with server_process.Workplace(f"shutdown-{kind}") as workplace:
        drive = mounts.ImageFileSystem(kind, workplace.path, arguments.gib << 30)
        workplace.on_exit(drive.remove)
        drive.mount()
        server = server_process.Server(
            server_process.find_binary(arguments.binary),
            drive.path / "data",
            workplace.path / "log",
            ["--cores", arguments.cores],
        ).start()
        workplace.on_exit(server.kill)
        load = workload.Load(arguments.workers, arguments.keys, f"{arguments.seed} {kind}")
        load.prepare(server)
        for number in range(1, arguments.rounds + 1):
            load.begin(server)
            time.sleep(draw.uniform(0.3, arguments.load))
            load.drive_fails(True)
            drive.shut_down()
            # What is acknowledged now was never written: it must not be.
            time.sleep(draw.uniform(0, 0.5))
            if not server.running():
                raise workload.Wrong(f"the server ended by itself\n{server.log_tail()}")
            server.kill()
            load.end()
            load.drive_fails(False)
            drive.unmount()
            drive.mount()
            server.start()
            load.verify(server, f"{kind}, after shutdown {number}")
        server.stop()
        drive.unmount()
        drive.check()
        drive.mount()
        server.start()
        load.verify(server, f"{kind}, after a clean stop")
        server.stop()
        counts = load.counts()
        print(
            f"shutdown {kind}: {arguments.rounds} shutdowns, {load.summary()}; nothing lost, nothing "
            f"wrong; {time.monotonic() - begun:.0f} s; seed {arguments.seed}",
            flush=True,
        )
        if counts.acknowledged < 30 * arguments.rounds or counts.cut_off < arguments.rounds:
            raise SystemExit("shutdown: too little was under way for the result to mean anything")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--rounds", type=int, default=4, help="on each file system")
    parser.add_argument("--file-system", choices=["ext4", "xfs"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--keys", type=int, default=40, help="of each worker")
    parser.add_argument("--load", type=float, default=3.0, help="longest load, seconds")
    parser.add_argument("--gib", type=int, default=2, help="size of the (sparse) image")
    parser.add_argument("--cores", default="2", help="of the server")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    kinds = [arguments.file_system] if arguments.file_system else ["ext4", "xfs"]
    for kind in kinds:
        rounds_on(kind, arguments, random.Random(f"{arguments.seed} {kind}"))


main()
