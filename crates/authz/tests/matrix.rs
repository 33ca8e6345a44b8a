//! The whole policy as a committed file, so that a change of it shows in review.
//!
//! `UPDATE_MATRIX=1 cargo test -p botstead-authz` rewrites the file.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use botstead_authz::{Action, Actor, Decision, Resource, decide};
use botstead_types::{Role, UserId};
use std::fmt::Write;

const HEADER: &str = "\
# Who may do what: every actor, action and resource, and the decision of `botstead_authz::decide`.
# Checked by crates/authz/tests/matrix.rs; UPDATE_MATRIX=1 cargo test -p botstead-authz rewrites it.
#
# allow   it may be done
# forbid  it may not, and the actor may know that the resource exists (HTTP 403)
# hide    it may not, and for the actor the resource does not exist (HTTP 404)
#
# Nobody else is an actor: a request without a valid token never gets here (HTTP 401).
";

fn render() -> String {
    let (someone, owner) = (UserId::generate(), UserId::generate());
    let user = |id, role| Actor::User { id, role };
    // On the server as a whole there is nothing to own, so "owner" is any member there.
    let actors = [
        ("admin", user(someone, Role::Admin)),
        ("owner", user(owner, Role::Member)),
        ("other member", user(someone, Role::Member)),
        ("system", Actor::System),
    ];
    let resources = [
        ("server", Resource::Server),
        ("bot", Resource::Bot { owner }),
    ];
    let mut text = HEADER.to_owned();
    for (resource_name, resource) in resources {
        write!(text, "\n{:<24}", format!("on {resource_name}")).unwrap();
        for (actor, _) in actors {
            write!(text, "{actor:<14}").unwrap();
        }
        text = text.trim_end().to_owned() + "\n";
        for action in Action::ALL {
            write!(text, "{:<24}", format!("  {action:?}")).unwrap();
            for (_, actor) in actors {
                let decision = match decide(&actor, *action, &resource) {
                    Decision::Allow => "allow",
                    Decision::Forbid => "forbid",
                    Decision::Hide => "hide",
                };
                write!(text, "{decision:<14}").unwrap();
            }
            text = text.trim_end().to_owned() + "\n";
        }
    }
    text
}

#[test]
fn the_committed_matrix_is_the_policy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/matrix.txt");
    let rendered = render();
    if std::env::var_os("UPDATE_MATRIX").is_some() {
        std::fs::write(path, &rendered).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        committed, rendered,
        "the policy changed: if that is meant, run with UPDATE_MATRIX=1 and commit {path}"
    );
}

#[test]
fn every_role_and_action_is_in_the_matrix() {
    // A new role or action that is not in these lists would be missing in the file.
    for role in Role::ALL {
        match role {
            Role::Admin | Role::Member => {}
        }
    }
    for action in Action::ALL {
        match action {
            Action::ManageUsers
            | Action::ManageImages
            | Action::RecoverData
            | Action::CreateBot
            | Action::ListAllBots
            | Action::ReadBot
            | Action::UpdateBot
            | Action::DeleteBot
            | Action::ReadWorkspace
            | Action::WriteWorkspace
            | Action::ExecWorkspace
            | Action::DeleteWorkspace => {}
        }
    }
    assert_eq!((Role::ALL.len(), Action::ALL.len()), (2, 12));
}

#[test]
fn an_admin_who_owns_the_bot_and_one_who_does_not_are_alike() {
    let owner = UserId::generate();
    let resource = Resource::Bot { owner };
    for action in Action::ALL {
        for id in [owner, UserId::generate()] {
            let role = Role::Admin;
            let decision = decide(&Actor::User { id, role }, *action, &resource);
            assert_eq!(decision, Decision::Allow, "{action:?}");
        }
    }
}
