//! `ostrakon bench` against a real server and against its own null server, tiny.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const ACCESS_KEY: &str = "benchtestkey";
const SECRET_KEY: &str = "bench-test-secret-key";

fn ostrakon() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostrakon"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OSTRAKON_") {
            command.env_remove(name);
        }
    }
    command
        .env("OSTRAKON_ACCESS_KEY", ACCESS_KEY)
        .env("OSTRAKON_SECRET_KEY", SECRET_KEY)
        .env("OSTRAKON_ADMIN_LISTEN", "off")
        .stdin(Stdio::null());
    command
}

/// A server that says where it listens on its first line.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(command: &mut Command) -> Server {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        // What else it says is read, so that it never waits for us.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://"));
        let Some(url) = url.map(str::to_owned) else {
            let _ = child.kill();
            panic!("not a ready line: {line:?}");
        };
        Server { child, url }
    }

    fn store(data: &Path) -> Server {
        let words = ["serve", "--listen", "127.0.0.1:0", "--cores", "1", "--data"];
        Server::start(ostrakon().args(words).arg(data))
    }

    fn null(words: &[&str]) -> Server {
        let command = ["bench", "null", "--listen", "127.0.0.1:0"];
        Server::start(ostrakon().args(command).args(words))
    }

    /// Runs `words` against it.
    fn bench(&self, words: &str) -> Output {
        ostrakon()
            .arg("bench")
            .args(words.split_whitespace())
            .args(["--url", &self.url, "--bucket", "bench-test", "--json", "-"])
            .output()
            .unwrap()
    }

    /// As `bench`, which must go well; the JSON.
    fn good(&self, words: &str) -> Value {
        let output = self.bench(words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words}: {err}");
        assert_eq!(err, "", "{words}");
        let result = json(&output);
        for one in result["measurements"].as_array().unwrap() {
            assert_eq!(one["errors"]["count"], 0, "{words}: {one}");
            assert_eq!(one["reconnects"], 0, "{words}");
            assert!(count(&one["all"]["latency_us"]["count"]) > 0, "{words}");
        }
        assert_eq!(result["notes"], serde_json::json!([]), "{words}");
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(output: &Output) -> Value {
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["format"], "ostrakon-bench");
    assert_eq!(result["version"], 1);
    result
}

fn count(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("not a count: {value}"))
}

fn operation<'a>(one: &'a Value, name: &str) -> &'a Value {
    let operations = one["operations"].as_array().unwrap();
    operations
        .iter()
        .find(|operation| operation["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {one}"))
}

/// The errors of the only measurement, by their names.
fn errors(output: &Output) -> Vec<(String, u64)> {
    let result = json(output);
    let list = result["measurements"][0]["errors"]["by_kind"]
        .as_array()
        .unwrap()
        .clone();
    list.iter()
        .map(|one| {
            (
                one["error"].as_str().unwrap().to_owned(),
                count(&one["count"]),
            )
        })
        .collect()
}

const TINY: &str = "--connections 4 --duration 0.4s --warm-up 0s --ceiling-seconds 0";

#[test]
fn every_workload_runs_against_a_real_server() {
    let dir = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let server = Server::store(dir.path());
    let pid = server.child.id();

    // put: bodies in the record and beside it; the window's counts agree with each other.
    let result = server.good(&format!(
        "put {TINY} --size 1000,100KiB --objects 20 --pid {pid}"
    ));
    for (one, size) in result["measurements"]
        .as_array()
        .unwrap()
        .iter()
        .zip([1000, 102_400])
    {
        let all = &one["all"];
        assert_eq!(one["size_bytes"], size);
        assert_eq!(count(&all["object_bytes"]), count(&all["count"]) * size);
        assert_eq!(one["requests"]["count"], all["count"]);
        let seconds = one["seconds"].as_array().unwrap();
        let sum: u64 = seconds
            .iter()
            .map(|second| count(&second["operations"]))
            .sum();
        assert_eq!(sum, count(&all["count"]));
        assert!(one["server"]["cpu_seconds"].is_f64());
        assert!(count(&one["server"]["memory"]["peak_resident_bytes"]) > 0);
        assert!(one["server"]["disk"]["written_bytes"].is_u64());
        assert!(one["ceiling"].is_null());
    }
    server.good(&format!(
        "put {TINY} --size 5000 --objects 20 --checksum crc32c --payload unsigned"
    ));
    server.good(&format!("put {TINY} --size 0 --objects 20"));

    server.good(&format!(
        "get {TINY} --size 1000,100KiB,3MiB --objects 10 --verify"
    ));
    server.good(&format!(
        "get {TINY} --cores 2 --rate 100 --objects 10 --verify --size 10"
    ));
    server.good(&format!("stat {TINY} --objects 10"));

    // delete: all keys, and then it ends.
    let words = "delete --connections 4 --duration 60s --warm-up 0s --ceiling-seconds 0";
    let result = server.good(&format!("{words} --objects 50"));
    let one = &result["measurements"][0];
    assert_eq!(one["keys_used_up"], true);
    assert_eq!(one["all"]["count"], 50);
    assert_eq!(operation(one, "delete")["latency_us"]["count"], 50);

    // list: two pages, whose keys are compared.
    let result = server.good(&format!("list {TINY} --objects 1200 --size 1 --verify"));
    let list = operation(&result["measurements"][0], "list");
    let pages = count(&list["count"]);
    assert!(count(&list["keys"]) <= pages * 1000 && count(&list["keys"]) >= pages * 200);

    let words = "--size 6MiB --part-size 5MiB --objects 4 --connections 2";
    let result = server.good(&format!("multipart {TINY} {words}").replace("--connections 4 ", ""));
    let one = &result["measurements"][0];
    let uploads = count(&operation(one, "upload")["latency_us"]["count"]);
    assert!(uploads > 0);
    assert_eq!(one["all"]["latency_us"]["count"], uploads);
    // All uploads begin in the window, not all of their parts.
    assert!(count(&operation(one, "part")["latency_us"]["count"]) <= 2 * uploads);

    let words = "--objects 30 --verify --mix get=40,put=30,stat=10,delete=20";
    let result = server.good(&format!("mixed {TINY} {words} --size 900,70KiB"));
    assert_eq!(result["mix"], "get=40,put=30,stat=10,delete=20");

    // Everything was removed, the bucket too.
    let output = server.bench(&format!("list {TINY} --no-prepare --objects 10"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors(&output)[0].0, "404 NoSuchBucket");
}

#[test]
fn errors_show_and_decide_the_exit_code() {
    let dir = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let server = Server::store(dir.path());
    // Kept objects are verified by another process, if it has the seed.
    server.good(&format!(
        "put {TINY} --size 1000 --objects 4 --keep --seed 7"
    ));
    let get = format!("get {TINY} --size 1000 --objects 4 --no-prepare --verify");
    server.good(&format!("{get} --seed 7"));
    let output = server.bench(&format!("{get} --seed 8"));
    assert_eq!(output.status.code(), Some(1));
    let found = errors(&output);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "wrong answer: other bytes than were put");
    let all = json(&output)["measurements"][0]["all"].clone();
    assert_eq!(
        (&all["count"], &all["latency_us"]),
        (&Value::from(0), &Value::Null)
    );

    let wrong = format!("{get} --seed 7 --secret-key wrong");
    let output = server.bench(&wrong);
    assert_eq!(output.status.code(), Some(1));
    let found = errors(&output);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "403 SignatureDoesNotMatch");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1);
    assert!(said.contains("operations failed"), "{said}");
    let output = server.bench(&format!("{wrong} --errors-max 1000000000"));
    assert_eq!(output.status.code(), Some(0));
    // What is refused while preparing ends it.
    let output = server.bench(&format!("get {TINY} --secret-key wrong"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "ostrakon: bench: bucket bench-test: 403\n");

    // Keys that are not there are errors, not answers.
    let output = server.bench(&format!("get {TINY} --size 999 --objects 4 --no-prepare"));
    assert_eq!(errors(&output)[0].0, "404 NoSuchKey");
    server.good("delete --size 1000 --objects 4 --connections 2 --no-prepare --warm-up 0 --ceiling-seconds 0");
}

#[test]
fn at_a_fixed_rate_waiting_counts_from_the_intended_start() {
    // Each answer takes at least 50 ms; an arrival every 10 ms on one connection. The i-th has
    // waited for those before it: its latency is at least 50 + 40 i ms, however slow we are.
    let server = Server::null(&["--stall", "50ms"]);
    let words = "get --connections 1 --duration 0.5s --warm-up 0s --no-prepare --ceiling-seconds 0";
    let result = server.good(&format!("{words} --rate 100"));
    assert_eq!(result["loop"], "open");
    let latency = &result["measurements"][0]["all"]["latency_us"];
    assert_eq!(latency["count"], 50);
    let us = |name: &str| latency[name].as_f64().unwrap();
    assert!(us("p50") >= 1_000_000.0, "{latency}");
    assert!(us("p90") >= 1_750_000.0, "{latency}");
    assert!(us("max") >= 2_000_000.0, "{latency}");
    assert!(us("min") >= 50_000.0, "{latency}");
}

#[test]
fn the_null_server_answers_every_workload() {
    let server = Server::null(&["--size", "300000"]);
    for workload in ["put", "get", "stat", "delete", "list", "multipart", "mixed"] {
        let words = format!(
            "{workload} {TINY} --size 300000 --part-size 100000 --objects 1000 --no-prepare \
             --anonymous"
        );
        let result = server.good(&words);
        assert_eq!(result["payload"], "anonymous");
    }
    // A ceiling stands beside the result.
    let words = "get --connections 2 --duration 0.1s --warm-up 0s --no-prepare --size 300000";
    let result = server.good(&format!("{words} --ceiling-seconds 0.2 --note none"));
    assert_eq!(result["note"], "none");
    let ceiling = &result["measurements"][0]["ceiling"];
    assert!(count(&ceiling["latency_us"]["count"]) > 0);
    assert_eq!(ceiling["errors"], 0);
}

#[test]
fn the_table_says_it_too() {
    let server = Server::null(&[]);
    let output = ostrakon()
        .args([
            "bench",
            "get",
            "--bucket",
            "bench-test",
            "--no-prepare",
            "--duration",
            "0.2s",
        ])
        .args([
            "--warm-up",
            "0s",
            "--ceiling-seconds",
            "0.2",
            "--url",
            &server.url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in [
        "operation",
        "p99.9",
        "errors     none",
        "ceiling",
        "unknown (say it with --note)",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn arguments_that_make_no_run_are_refused_in_one_line() {
    for (words, part) in [
        (
            "get --bucket b-b --url https://127.0.0.1",
            "HTTPS is not spoken yet",
        ),
        ("get --bucket B", "not a name for a bucket"),
        ("get --bucket b-b --connections 0", "--connections must be"),
        ("get --bucket b-b --mix get=1", "--mix is for mixed alone"),
        ("get --bucket b-b --rate 0", "--rate must be"),
        ("get --bucket b-b --objects 0", "--objects must be"),
        (
            "list --bucket b-b --checksum crc32c",
            "--checksum is for put and mixed",
        ),
        (
            "multipart --bucket b-b --part-size 0",
            "--part-size must be",
        ),
    ] {
        let output = ostrakon()
            .arg("bench")
            .args(words.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(part), "{said}");
    }
    let output = ostrakon()
        .args(["bench", "get", "--bucket", "b-b"])
        .env_remove("OSTRAKON_SECRET_KEY")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    // Nobody listens there: one line, and nothing measured.
    let output = ostrakon()
        .args([
            "bench",
            "get",
            "--bucket",
            "b-b",
            "--no-prepare",
            "--url",
            "http://127.0.0.1:1",
        ])
        .args(["--ceiling-seconds", "0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("127.0.0.1:1: connecting: "), "{said}");
}
