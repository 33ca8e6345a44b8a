//! Runs other programs so that a failure names the command and what to try.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// The command line as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command with its output passed on. `advice` says what to try when it fails.
pub(crate) fn run(command: &mut Command, advice: &str) -> Result<()> {
    let line = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("`{line}` could not be started; try: {advice}"))?;
    if !status.success() {
        bail!("`{line}` failed ({status}); try: {advice}");
    }
    Ok(())
}

/// Runs a command and gives what it printed on stdout. What it printed on stderr stands in the error.
pub(crate) fn capture(command: &mut Command, advice: &str) -> Result<String> {
    let line = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{line}` could not be started; try: {advice}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{line}` failed ({}): {}; try: {advice}",
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// Whether a program of this name is on the PATH or where root's programs are.
pub(crate) fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is: on the PATH, or where root's programs are, which a plain user's PATH may lack.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_to_try() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]), "a cup of tea").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c 'exit 3'` failed (exit status: 3); try: a cup of tea"
        );
        let error = capture(Command::new("ls").arg("/nonexistent"), "another").unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
        let error = run(&mut Command::new("no-such-program"), "installing it").unwrap_err();
        assert!(error.to_string().contains("installing it"), "{error}");
    }
}
