//! Archives of preserved data whose bots are gone: nobody but an admin can ask for them.

use super::Check;
use crate::config::Config;
use crate::installation::Installation;
use crate::repair;
use botstead_http::unclaimed_archive_requests;
use botstead_workspace::UnclaimedArchive;

const NAME: &str = "archives";

pub(super) async fn check(config: &Config) -> Check {
    let Some(database) = Installation::existing_database(config) else {
        return Check::ok(NAME, "nothing is installed yet");
    };
    match repair::unclaimed(config, &database).await {
        Ok(found) => judge(&found),
        Err(error) => Check::ok(NAME, format!("not looked at: {error:#}")),
    }
}

fn judge(found: &[UnclaimedArchive]) -> Check {
    let [first, rest @ ..] = found else {
        return Check::ok(NAME, "the bots of all preserved archives exist");
    };
    let archive = &first.archive;
    let more = match rest.len() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let [list, discard] = unclaimed_archive_requests(first.bot, archive.id);
    Check::warn(
        NAME,
        format!(
            "archive {} of bot {}, whom the database does not know ({} bytes){more}",
            archive.id, first.bot, archive.size_bytes
        ),
        format!(
            "`{list}` lists them for admins, who can download each; `{discard}` removes this one"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use botstead_types::{BotId, PreservedId};
    use botstead_workspace::PreservedArchive;

    #[test]
    fn archives_of_bots_that_are_gone_are_told_with_what_to_do() {
        assert_eq!(judge(&[]).status, Status::Ok);
        let (bot, id) = (BotId::generate(), PreservedId::generate());
        let archive = PreservedArchive {
            id,
            created_at: chrono::Utc::now(),
            size_bytes: 7,
        };
        let one = UnclaimedArchive { bot, archive };
        let told = judge(&[one.clone(), one]);
        assert_eq!(told.status, Status::Warn);
        assert!(told.detail.contains(&id.to_string()), "{}", told.detail);
        assert!(told.detail.ends_with("; and 1 more"), "{}", told.detail);
        let advice = told.advice.unwrap();
        assert!(advice.contains("GET /recovery/archives"), "{advice}");
        let discard = format!("DELETE /recovery/archives/{bot}/{id}");
        assert!(advice.contains(&discard), "{advice}");
    }
}
