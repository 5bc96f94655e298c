#![no_main]
//! Commands and local facts.

#[path = "../../tests/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::metadata_record(bytes);
    checks::volume_record(bytes);
});
