//! The program: parses arguments, prints one line on standard error if it fails, and exits with a
//! code of sysexits(3).

use std::io::{self, Write as _};
use std::process::ExitCode;

use mimalloc::MiMalloc;

// Messages pass between threads, so most memory is freed by another thread than the one that allocated it;
// this allocator is cheap for that, and returns the memory of large bodies to the system.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = match postern::cli::Arguments::read() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let mut out = io::stdout().lock();
    match arguments.run(&mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut err = io::stderr().lock();
            for line in failure.lines() {
                // Without standard error, the exit code alone must suffice.
                let _ = writeln!(err, "{line}");
            }
            ExitCode::from(&failure)
        }
    }
}
