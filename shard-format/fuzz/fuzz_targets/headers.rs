#![no_main]
//! File headers, drive and volume format files.

#[path = "../../tests/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::headers(bytes));
