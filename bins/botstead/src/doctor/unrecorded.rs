//! What the runtime has and the database does not know: it may be the only copy of somebody's work.

use super::Check;
use crate::config::Config;
use crate::installation::Installation;
use crate::repair;

const NAME: &str = "unrecorded";

pub(super) async fn check(config: &Config) -> Check {
    if Installation::existing_database(config).is_none() {
        return Check::ok(NAME, "nothing is installed yet");
    }
    match repair::unrecorded(config).await {
        Ok(found) => judge(&found),
        Err(error) => Check::ok(NAME, format!("not looked at: {error:#}")),
    }
}

fn judge(kept: &[String]) -> Check {
    match kept {
        [] => Check::ok(NAME, "the database knows all snapshots of workspaces"),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            Check::warn(
                NAME,
                format!("{first}{more}"),
                "`botstead doctor --repair` lists all of them and what becomes of each; it removes none",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_nobody_knows_is_told_with_its_number() {
        assert_eq!(judge(&[]).status, Status::Ok);
        let one = judge(&["version x".to_owned()]);
        assert_eq!(
            (one.status, one.detail.as_str()),
            (Status::Warn, "version x")
        );
        let three = judge(&["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        assert_eq!(three.detail, "a; and 2 more");
    }
}
