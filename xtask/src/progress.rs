//! Progress lines: what runs, how long it took, and which step failed.

use anyhow::{Context, Result};
use std::time::Instant;

/// Runs one step between two lines with its time, and puts its name before its error.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {name}");
    let began = Instant::now();
    let result = work();
    let seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(_) => println!("    {name}: done in {seconds:.1} s"),
        Err(_) => println!("    {name}: FAILED after {seconds:.1} s"),
    }
    result.with_context(|| format!("step \"{name}\" failed"))
}

/// A line of explanation under the current step.
pub(crate) fn note(text: impl std::fmt::Display) {
    println!("    {text}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_failing_step_names_itself() {
        let error = super::step("boiling", || -> anyhow::Result<()> {
            anyhow::bail!("no water")
        })
        .unwrap_err();
        assert_eq!(format!("{error:#}"), "step \"boiling\" failed: no water");
    }
}
