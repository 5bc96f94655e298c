//! Every benchmark once, tiny, so that none of them rots.

use std::path::Path;
use std::process::Command;

fn run(name: &str, arguments: &[&str]) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let out = Command::new(env!("CARGO_BIN_EXE_ostrakon-bench"))
        .args(arguments)
        .arg("--dir")
        .arg(&directory)
        .output()
        .expect("the binary starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{name}: {text}\n{errors}");
    assert!(text.contains("result hash"), "{name}: {text}\n{errors}");
    assert!(
        std::fs::read_dir(&directory).is_ok_and(|mut d| d.next().is_none()),
        "{name} leaves its data behind"
    );
    text
}

const LOG: [&str; 9] = [
    "log",
    "--seconds",
    "0.2",
    "--warm-up",
    "0.1",
    "--runs",
    "1",
    "--segment-file",
    "16",
];

#[test]
fn log() {
    let text = run("log", &[&LOG[..], &["--no-peer"]].concat());
    assert!(text.contains("flushes/append"), "{text}");
}

#[test]
fn log_against_fio() {
    if Command::new("fio").arg("--version").output().is_err() {
        eprintln!("not run: fio is not installed");
        return;
    }
    let text = run("log_fio", &[&LOG[..], &["--fio-files", "16"]].concat());
    assert!(text.contains("rate, log to fio group"), "{text}");
}

#[test]
fn listing() {
    let sizes = [
        "--keys",
        "3000",
        "--small-keys",
        "1000",
        "--runs",
        "1",
        "--pages",
        "2",
    ];
    let text = run("listing", &[&["listing"][..], &sizes].concat());
    assert!(text.contains("3 left of 3000"), "{text}");
}

#[test]
fn restart() {
    let text = run("restart", &["restart", "--keys", "500", "--runs", "1"]);
    assert!(text.contains("killed under load"), "{text}");
}

#[test]
fn checkpoint() {
    run(
        "checkpoint",
        &[
            "checkpoint",
            "--keys",
            "2000",
            "--changes",
            "200",
            "--runs",
            "2",
        ],
    );
}

#[test]
fn md5() {
    let sizes = [
        "--stream", "70000", "--small", "100", "--bytes", "1000", "--rounds", "1",
    ];
    let text = run("md5", &[&["md5"][..], &sizes].concat());
    assert!(text.contains("32 streams of 70000 bytes"), "{text}");
}

#[test]
fn codec() {
    let sizes = ["--segment", "192", "--bytes", "1000", "--runs", "1"];
    let text = run("codec", &[&["codec", "--kernels"][..], &sizes].concat());
    assert!(text.contains("(8,4)") && text.contains("scalar"), "{text}");
}

#[test]
fn codec_without_isal() {
    let sizes = ["--segment", "64", "--bytes", "1000", "--runs", "1"];
    let text = run(
        "codec_without_isal",
        &[&["codec", "--libisal", "/no/libisal"][..], &sizes].concat(),
    );
    assert!(text.contains("ISA-L: absent"), "{text}");
}

#[test]
fn reclaim() {
    let text = run("reclaim", &["reclaim", "--keys", "2000", "--rounds", "2"]);
    assert!(text.contains("segment files at the end"), "{text}");
}
