//! The commands of `ostrakon`; see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ostrakon::cli::main()
}
