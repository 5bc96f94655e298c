"""The table of docs/performance.md: the server on one CPU, the load on another, peers in the same run.

    python3 bench/speed.py [--binary PATH] [--rounds 3] [--seconds 5] [--only NAME ...] [--json FILE]
                           [--garage PATH]

Each line runs `ostrakon bench` against `ostrakon serve --cores 1` pinned to one CPU, and its peer
(fio on a file of the same file system, nginx with the same files, MD5 of one stream, Garage under the
same load), in turn, `--rounds` times; medians are printed, with the ratio of each round where there is
a peer. `cargo install garage --root target/garage` makes the Garage that is looked for; without it the
lines `garage-...` say so.

Durability: Ostrakon answers a PUT when its bytes and its record were flushed (fdatasync). Garage runs
with `metadata_fsync` and `data_fsync`, one copy, LMDB. fio writes with O_DIRECT and one fdatasync per
4 MiB written. nginx and fio reads have nothing to be durable of. Needs fio, nginx and some 12 GiB of
disk.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import server_process  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20


class Place:
    """Where one run happens: CPUs, the binary, a scratch directory on the drive under test."""

    def __init__(self, arguments, directory):
        self.binary = arguments.binary
        self.garage_binary = arguments.garage
        self.seconds = arguments.seconds
        self.directory = directory
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise SystemExit("speed: needs two CPUs")
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]

    @contextlib.contextmanager
    def on(self, cpu):
        """What is started within is pinned."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    @contextlib.contextmanager
    def server(self, *arguments):
        data = self.directory / "data"
        server = server_process.Server(
            self.binary, data, self.directory / "log", ["--cores", "1", *arguments]
        )
        with self.on(self.server_cpu):
            server.start()
        try:
            yield server
        finally:
            if server.running():
                server.stop()
            subprocess.run(["rm", "-rf", data], check=True)

    def bench(self, workload, url, pid, *arguments, keys=None, seconds=None):
        """One measurement of `ostrakon bench`, as in docs/bench.md."""
        access, secret = keys or ("", "")
        environment = os.environ | {"OSTRAKON_ACCESS_KEY": access, "OSTRAKON_SECRET_KEY": secret}
        command = [
            *(self.binary, "bench", workload, "--url", url, "--bucket", "bench", "--json", "-"),
            *("--cpu", str(self.load_cpu), "--pid", str(pid), "--warm-up", "1s"),
            *("--duration", f"{seconds or self.seconds}s", "--ceiling-seconds", "0.5", *arguments),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"speed: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)["measurements"][0]

    def fio(self, name, *arguments):
        """MB/s of one fio job on a file beside the data directory, on the server's CPU."""
        file = self.directory / "fio"
        command = [
            *("fio", f"--name={name}", f"--filename={file}", "--size=2g", "--direct=1", "--thread"),
            *("--ioengine=io_uring", "--time_based", f"--runtime={self.seconds}", "--ramp_time=1"),
            *(f"--cpus_allowed={self.server_cpu}", "--output-format=json", *arguments),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        job = json.loads(done.stdout)["jobs"][0]
        return (job["read"]["bw_bytes"] + job["write"]["bw_bytes"]) / 1e6

    @contextlib.contextmanager
    def nginx(self, size, count):
        """nginx with the files that `ostrakon bench get` asks for; they stay in the page cache."""
        home = self.directory / "nginx"
        files = home / "bench"
        files.mkdir(parents=True)
        for key in range(count):
            path = files / key_name(size, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(min(size, MIB)) * max(1, size // MIB))
        port = server_process.free_port()
        (home / "conf").write_text(
            f"daemon off; master_process off; worker_processes 1; pid {home}/pid; error_log {home}/e;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n"
            f"  server {{ listen 127.0.0.1:{port}; root {home}; }} }}\n"
        )
        with self.on(self.server_cpu):
            process = subprocess.Popen(["nginx", "-p", home, "-c", home / "conf"])
        time.sleep(0.5)
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()
            subprocess.run(["rm", "-rf", home], check=True)

    @contextlib.contextmanager
    def garage(self):
        """Garage, durable, one node: its endpoint, pid and keys."""
        home = self.directory / "garage"
        home.mkdir()
        api, rpc = server_process.free_port(), server_process.free_port()
        config = home / "garage.toml"
        config.write_text(
            f'metadata_dir = "{home}/meta"\ndata_dir = "{home}/data"\ndb_engine = "lmdb"\n'
            "metadata_fsync = true\ndata_fsync = true\nreplication_factor = 1\n"
            f'rpc_bind_addr = "127.0.0.1:{rpc}"\nrpc_public_addr = "127.0.0.1:{rpc}"\n'
            f'rpc_secret = "{os.urandom(32).hex()}"\n'
            f'[s3_api]\ns3_region = "us-east-1"\napi_bind_addr = "127.0.0.1:{api}"\n'
        )
        config.chmod(0o600)
        with self.on(self.server_cpu), (home / "log").open("wb") as log:
            environment = os.environ | {"RUST_LOG": "garage=warn"}
            process = subprocess.Popen(
                [self.garage_binary, "-c", config, "server"], env=environment, stdout=log, stderr=log
            )

        def tell(*arguments):
            command = [self.garage_binary, "-c", config, *arguments]
            return subprocess.run(command, capture_output=True, text=True)

        try:
            for _ in range(100):
                node = tell("node", "id", "-q")
                if node.returncode == 0 and tell("status").returncode == 0:
                    break
                time.sleep(0.1)
            key, secret = "GK" + os.urandom(12).hex(), os.urandom(32).hex()
            for command in (
                ("layout", "assign", "-z", "dc1", "-c", "10G", node.stdout.split("@")[0]),
                ("layout", "apply", "--version", "1"),
                ("key", "import", "--yes", "-n", "bench", key, secret),
                ("bucket", "create", "bench"),
                ("bucket", "allow", "--read", "--write", "--owner", "bench", "--key", "bench"),
            ):
                done = tell(*command)
                if done.returncode != 0:
                    raise SystemExit(f"speed: garage {' '.join(command)}: {done.stderr}")
            yield f"http://127.0.0.1:{api}", process.pid, (key, secret)
        finally:
            process.terminate()
            process.wait()
            subprocess.run(["rm", "-rf", home], check=True)

    def fio_latency(self, name, kind, *arguments):
        """p99.9 and p50 in µs of one fio job's reads, or flushes (`sync`)."""
        file = self.directory / "fio"
        command = [
            *("fio", f"--name={name}", f"--filename={file}", "--size=2g", "--direct=1", "--thread"),
            *("--time_based", f"--runtime={self.seconds}", "--ramp_time=1"),
            *(f"--cpus_allowed={self.server_cpu}", "--output-format=json", *arguments),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        job = json.loads(done.stdout)["jobs"][0][kind]
        percentile = job["lat_ns" if kind == "sync" else "clat_ns"]["percentile"]
        return percentile["99.900000"] / 1e3, percentile["50.000000"] / 1e3

    @contextlib.contextmanager
    def null(self):
        """A server that stores nothing, on the server's CPU."""
        port = server_process.free_port()
        command = [self.binary, "bench", "null", "--listen", f"127.0.0.1:{port}"]
        process = subprocess.Popen([*command, "--cpu", str(self.server_cpu)], stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        try:
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            process.wait()

    def md5(self):
        """MB/s of one stream, by the C library that Python links."""
        piece = os.urandom(MIB)
        with self.on(self.server_cpu):
            digest, begun, count = hashlib.md5(), time.process_time(), 0
            while time.process_time() - begun < 1:
                digest.update(piece)
                count += 1
            return count * MIB / 1e6 / (time.process_time() - begun)


def key_name(size, key):
    return f"ostrakon-bench/{size}/{key:012}"


def loaded(place, workload, *arguments, seconds=None):
    with place.server() as server:
        return place.bench(
            workload, server.endpoint, server.process.pid, *arguments, keys=server.credentials(), seconds=seconds
        )


def small(workload, size, connections, objects):
    def run(place):
        arguments = ("--size", str(size), "--connections", str(connections), "--objects", str(objects))
        one = loaded(place, workload, *arguments)
        return {
            "ops_s": one["all"]["per_second"],
            "mb_s": one["all"]["object_bytes_per_second"] / 1e6,
            "cpu_us": one["server"]["cpu_us_per_request"],
            "p50_us": one["all"]["latency_us"]["p50"],
            "p99_9_us": one["all"]["latency_us"]["p99_9"],
            "ceiling_s": one["ceiling"]["requests"]["per_second"],
        }

    return run


def large_get(connections):
    def run(place):
        count = 16
        arguments = ("--size", str(64 * MIB), "--connections", str(connections), "--objects", str(count))
        one = loaded(place, "get", *arguments)
        rate = one["all"]["object_bytes_per_second"] / 1e6
        place.fio("write", "--rw=write", "--bs=1m", "--iodepth=4")
        fio = place.fio("read", "--rw=read", "--bs=1m", "--iodepth=4")
        with place.nginx(64 * MIB, count) as (url, pid):
            other = place.bench("get", url, pid, *arguments, "--anonymous", "--no-prepare")
        nginx = other["all"]["object_bytes_per_second"] / 1e6
        return {
            "mb_s": rate,
            "cpu_us": one["server"]["cpu_us_per_request"],
            "fio_mb_s": fio,
            "nginx_mb_s": nginx,
            "nginx_cpu_us": other["server"]["cpu_us_per_request"],
            "ratio": rate / min(fio, nginx),
        }

    return run


def large_put(connections):
    def run(place):
        arguments = ("--size", str(64 * MIB), "--connections", str(connections), "--objects", "16")
        # Uploads that have not ended when the time is over count for nothing, so there have to be many that have.
        seconds = max(place.seconds, connections)
        one = loaded(place, "put", *arguments, "--payload", "unsigned", seconds=seconds)
        rate = one["all"]["object_bytes_per_second"] / 1e6
        fio = place.fio("write", "--rw=write", "--bs=1m", "--iodepth=4", "--fdatasync=4")
        md5 = place.md5()
        bound = min(md5, fio) if connections == 1 else min(3000, fio)
        return {
            "mb_s": rate,
            "cpu_us": one["server"]["cpu_us_per_request"],
            "fio_mb_s": fio,
            "md5_mb_s": md5,
            "ratio": rate / bound,
        }

    return run


def listing(place):
    arguments = ("--size", "16", "--connections", "4", "--objects", "1000000")
    one = loaded(place, "list", *arguments)
    return {
        "keys_s": one["all"]["keys_per_second"],
        "cpu_us": one["server"]["cpu_us_per_request"],
        "p50_us": one["all"]["latency_us"]["p50"],
    }


def paced(workload):
    """At 70 % of what a closed loop reaches. Beside it the tail of what there is without a store: for puts a flush of
    64 KiB at a time (fio), for gets a random read (fio); for both the same rate of requests to a server that stores
    nothing."""

    def run(place):
        arguments = ("--size", str(4 * KIB), "--connections", "64", "--objects", "20000")
        with place.server() as server:
            pid, keys = server.process.pid, server.credentials()
            most = place.bench(workload, server.endpoint, pid, *arguments, "--keep", keys=keys)
            rate = most["all"]["per_second"] * 0.7
            one = place.bench(workload, server.endpoint, pid, *arguments, "--rate", str(int(rate)), keys=keys)
        with place.null() as (url, pid):
            null = place.bench(
                "get", url, pid, *arguments, "--rate", str(int(rate)), "--no-prepare", "--anonymous"
            )
        if workload == "put":
            drive = place.fio_latency("flush", "sync", "--rw=write", "--bs=64k", "--fdatasync=1", "--ioengine=psync")
        else:
            place.fio("write", "--rw=write", "--bs=1m", "--iodepth=4")
            drive = place.fio_latency("read", "read", "--rw=randread", "--bs=4k", "--ioengine=psync")
        latency, beside = one["all"]["latency_us"], null["all"]["latency_us"]
        return {
            "ops_s": rate,
            "p50_us": latency["p50"],
            "p99_us": latency["p99"],
            "p99_9_us": latency["p99_9"],
            "null_p50_us": beside["p50"],
            "null_p99_9_us": beside["p99_9"],
            "drive_p50_us": drive[1],
            "drive_p99_9_us": drive[0],
            "ratio": latency["p99_9"] / latency["p50"],
        }

    return run


def garage(workload, size, connections, objects, *more):
    """The same load on Ostrakon and on Garage; `ratio` is of operations a second, `cpu_ratio` of CPU an operation."""

    def run(place):
        arguments = ("--size", str(size), "--connections", str(connections), "--objects", str(objects), *more)
        # Some uploads have to end within the time.
        seconds = max(place.seconds, 10) if size > MIB else place.seconds
        ours = loaded(place, workload, *arguments, seconds=seconds)
        if not place.garage_binary.exists():
            return {"garage_absent": 1, "ops_s": ours["all"]["per_second"]}
        with place.garage() as (url, pid, keys):
            theirs = place.bench(workload, url, pid, *arguments, keys=keys, seconds=seconds)
        return {
            "ops_s": ours["all"]["per_second"],
            "garage_ops_s": theirs["all"]["per_second"],
            "cpu_us": ours["server"]["cpu_us_per_request"],
            "garage_cpu_us": theirs["server"]["cpu_us_per_request"],
            "p99_us": ours["all"]["latency_us"]["p99"],
            "garage_p99_us": theirs["all"]["latency_us"]["p99"],
            "cpu_ratio": theirs["server"]["cpu_us_per_request"] / ours["server"]["cpu_us_per_request"],
            "ratio": ours["all"]["per_second"] / theirs["all"]["per_second"],
        }

    return run


def start(place):
    begun = time.monotonic()
    with place.server() as server:
        ready = time.monotonic() - begun
        server.stop()
        with place.on(place.server_cpu):
            begun = time.monotonic()
            server.start()
            again = time.monotonic() - begun
            server.stop()
            server.arguments += ["--memory", "small"]
            server.start()
        time.sleep(2)
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0]) / 1024
    stripped = place.directory / "stripped"
    subprocess.run(["strip", "-o", stripped, place.binary], check=True)
    return {
        "first_start_s": ready,
        "start_s": again,
        "idle_small_mib": resident,
        "stripped_mb": stripped.stat().st_size / 1e6,
    }


LINES = {
    "put-4k": small("put", 4 * KIB, 64, 20_000),
    "get-4k-cached": small("get", 4 * KIB, 64, 3_000),
    "get-4k-drive": small("get", 4 * KIB, 64, 200_000),
    "put-64k": small("put", 64 * KIB, 32, 2_000),
    "get-64k": small("get", 64 * KIB, 32, 2_000),
    "put-1m": small("put", MIB, 16, 400),
    "get-1m": small("get", MIB, 16, 400),
    "get-64m": large_get(4),
    "put-64m-1": large_put(1),
    "put-64m-16": large_put(16),
    "list-1m": listing,
    "put-4k-70%": paced("put"),
    "get-4k-70%": paced("get"),
    "start": start,
    "garage-put-4k": garage("put", 4 * KIB, 64, 20_000),
    "garage-get-4k": garage("get", 4 * KIB, 64, 2_000),
    "garage-put-1m": garage("put", MIB, 16, 400),
    "garage-get-1m": garage("get", MIB, 16, 400),
    "garage-put-64m": garage("put", 64 * MIB, 16, 16, "--payload", "unsigned"),
    "garage-get-64m": garage("get", 64 * MIB, 4, 16),
    "garage-list": garage("list", 16, 4, 2_000),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=LINES)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--garage", type=pathlib.Path, default=ROOT / "target/garage/bin/garage")
    arguments = parser.parse_args()
    arguments.binary = server_process.find_binary(arguments.binary)
    results = {}
    with server_process.Workplace("speed") as workplace:
        place = Place(arguments, workplace.path)
        for name in arguments.only or LINES:
            rounds = [LINES[name](place) for _ in range(arguments.rounds)]
            medians = {field: statistics.median(one[field] for one in rounds) for field in rounds[0]}
            results[name] = {"median": medians, "rounds": rounds}
            text = "  ".join(f"{field} {value:,.2f}" for field, value in medians.items())
            if "ratio" in medians:
                text += "  of rounds " + " ".join(f"{one['ratio']:.2f}" for one in rounds)
            print(f"{name:14} load {os.getloadavg()[0]:.1f}  {text}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1))


main()
