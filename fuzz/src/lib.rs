//! Fuzz targets: one program in `src/bin` for each, which names a function that takes bytes and panics
//! when a rule is broken. The functions are beside what they check, in its crate; here is only what
//! runs them.
//!
//! `cargo xtask fuzz` compiles the programs with libFuzzer. Without it they run the files that they
//! are given, such as one that made a target fail: `cargo run -p botstead-fuzz --bin path -- FILE`.

/// Makes a program of a function that takes bytes.
#[macro_export]
macro_rules! target {
    ($function:path) => {
        #[cfg(feature = "libfuzzer")]
        ::libfuzzer_sys::fuzz_target!(|data: &[u8]| $function(data));

        #[cfg(not(feature = "libfuzzer"))]
        fn main() -> ::std::process::ExitCode {
            $crate::replay($function)
        }
    };
}

/// Runs a target on the files that the command line names.
#[allow(clippy::print_stderr, reason = "for people at a terminal")]
pub fn replay(target: fn(&[u8])) -> std::process::ExitCode {
    let mut code = std::process::ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(data) => {
                target(&data);
                eprintln!("{}: no rule is broken", path.display());
            }
            Err(error) => {
                eprintln!("cannot read {}: {error}", path.display());
                code = std::process::ExitCode::FAILURE;
            }
        }
    }
    code
}
