#![no_main]
//! Footers, at the first place one can be.

#[path = "../../tests/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::footer(16 * 8192, bytes));
