//! The program: arguments in, one line on standard error and a sysexits code out.

use std::io::{self, Write as _};
use std::process::ExitCode;

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
                // Where standard error is gone, the code alone has to tell.
                let _ = writeln!(err, "{line}");
            }
            ExitCode::from(&failure)
        }
    }
}
