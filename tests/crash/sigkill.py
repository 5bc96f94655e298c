"""SIGKILL under load, again and again; after each restart everything is verified.

    python3 tests/crash/sigkill.py [--kills 200] [--seed N] [--binary PATH]

Standard library only. Some kills hit the start itself, before it is ready. Prints a summary and
exits with 0 only if every acknowledged object came back byte for byte and every listing was
complete, after every kill.
"""

import argparse
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import server_process  # noqa: E402
import workload  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--keys", type=int, default=40, help="of each worker")
    parser.add_argument("--load", type=float, default=0.6, help="longest load, seconds")
    parser.add_argument("--cores", default="2", help="of the server")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    draw = random.Random(arguments.seed)
    begun = time.monotonic()
    with server_process.Workplace("sigkill") as workplace:
        server = server_process.Server(
            server_process.find_binary(arguments.binary),
            workplace.path / "data",
            workplace.path / "log",
            ["--cores", arguments.cores],
        ).start()
        workplace.on_exit(server.kill)
        load = workload.Load(arguments.workers, arguments.keys, arguments.seed)
        load.prepare(server)
        restarts, slowest, in_start = 0.0, 0.0, 0
        kills = 0
        while kills < arguments.kills:
            load.begin(server)
            time.sleep(draw.uniform(0.05, arguments.load))
            server.kill()
            load.end()
            kills += 1
            # Recovery must survive being cut off as well.
            while draw.random() < 0.15 and kills < arguments.kills:
                server.spawn()
                time.sleep(draw.uniform(0, 0.3))
                server.kill()
                kills += 1
                in_start += 1
            if kills % 10 == 0:
                server.inspect()
            start = time.monotonic()
            server.start()
            took = time.monotonic() - start
            restarts, slowest = restarts + took, max(slowest, took)
            load.verify(server, f"after kill {kills}")
            if kills % 20 == 0:
                print(
                    f"{kills} kills, {time.monotonic() - begun:.0f} s: {load.summary()}", flush=True
                )
        server.stop()
        server.inspect()
        server.start()
        load.verify(server, "after a clean stop")
        server.stop()
        print(
            f"sigkill: {kills} kills ({in_start} of them during a start), {load.summary()}; "
            f"slowest restart {slowest:.2f} s; nothing lost, nothing wrong; "
            f"{time.monotonic() - begun:.0f} s; seed {arguments.seed}"
        )
        counts = load.counts()
        # A load that does nothing proves nothing.
        if counts.acknowledged < 20 * arguments.kills or counts.cut_off < arguments.kills // 2:
            raise SystemExit("sigkill: too little was under way for the result to mean anything")


main()
