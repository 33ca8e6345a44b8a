//! What runc says when it cannot start a container, in words for whoever made its image or its files.

use crate::op::Op;
use botstead_runtime::{Error, ErrorKind};
use botstead_types::ContainerId;
use tonic::Status;

/// How the shim names runc's own error, for a creation and for a start.
const BY_RUNC: [&str; 2] = ["OCI runtime create failed: ", "OCI runtime start failed: "];

/// Where runc itself did not run or did not say what it met: nothing of the container's is to blame.
const NOT_BY_RUNC: &str = "unable to retrieve OCI runtime error";

/// Of a sentence of runc's, so much is told.
const MOST_CHARS: usize = 600;

/// What such an answer means: that the container cannot be started as it is, unless something of the host ran
/// out or the answer is about another task.
pub(super) fn error(op: &Op, id: &ContainerId, status: Status) -> Error {
    let told = sentence(status.message(), id);
    let error = op.status(status);
    match (told, error.kind()) {
        (Some(told), ErrorKind::Internal | ErrorKind::InvalidArgument | ErrorKind::NotFound) => {
            let reason = format!(
                "{told}; use another image, or go back to a version in which that is otherwise"
            );
            op.fail_with(ErrorKind::Unstartable, reason, error)
        }
        _ => error,
    }
}

/// runc's own words, without what containerd puts around them and without paths of the host.
fn sentence(text: &str, id: &ContainerId) -> Option<String> {
    let (_, said) = BY_RUNC.iter().find_map(|by| text.split_once(by))?;
    if said.starts_with(NOT_BY_RUNC) {
        return None;
    }
    let said = said.trim_start_matches("runc create failed: ");
    let said = said.trim_start_matches("runc start failed: ");
    let said = said.trim_end_matches(": unknown");
    let said = without_host_paths(said, id);
    Some(said.chars().take(MOST_CHARS).collect())
}

/// Paths of the host that a container's start has to do with have its id in them. Of one into its root only
/// what is below that is told.
fn without_host_paths(text: &str, id: &ContainerId) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ':' | ',' | '(' | ')');
    text.split_inclusive(ends)
        .map(|piece| {
            let path = piece.trim_end_matches(ends);
            let end = &piece[path.len()..];
            if !path.contains(id.as_str()) || !path.starts_with('/') {
                return piece.to_owned();
            }
            match path.split_once("/rootfs") {
                Some((_, "")) => format!("/{end}"),
                Some((_, below)) if below.starts_with('/') => format!("{below}{end}"),
                _ => format!("(a file of the host){end}"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use botstead_types::BotId;

    #[test]
    fn runcs_sentence_is_told_without_the_hosts_paths() {
        let id = ContainerId::for_bot(BotId::generate());
        let text = format!(
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
             container process: error during container init: error mounting \"/srv/x/etc/{id}/hosts\" to rootfs \
             at \"/etc/hosts\": open /run/task/{id}/rootfs/etc/hosts: not a directory: unknown"
        );
        let op = Op::new("create task", &id);
        let error = error(&op, &id, Status::unknown(text));
        assert_eq!(error.kind(), ErrorKind::Unstartable);
        let told = error.to_string();
        assert!(told.contains("\"(a file of the host)\""), "{told}");
        assert!(told.contains("open /etc/hosts: not a directory;"), "{told}");
        assert!(
            !told.contains("/srv") && !told.contains("/run/task"),
            "{told}"
        );
    }

    #[test]
    fn what_the_host_lacks_is_not_the_containers_fault() {
        let id = ContainerId::for_bot(BotId::generate());
        let op = Op::new("create task", &id);
        let kind = |text: &str| error(&op, &id, Status::unknown(text)).kind();
        let prefix = "OCI runtime create failed: ";
        assert_eq!(
            kind(&format!(
                "{prefix}runc create failed: write x: no space left on device: unknown"
            )),
            ErrorKind::ResourceExhausted
        );
        let missing = "unable to retrieve OCI runtime error (open log.json: no such file or directory): exec: runc";
        assert_ne!(kind(&format!("{prefix}{missing}")), ErrorKind::Unstartable);
        assert_ne!(kind("something else"), ErrorKind::Unstartable);
        assert_eq!(
            kind(&format!(
                "{prefix}runc create failed: user not found: unknown"
            )),
            ErrorKind::Unstartable,
            "what runc misses is not what containerd does not have"
        );
    }
}
