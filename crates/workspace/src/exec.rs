//! Commands in a workspace, run by the runtime and answered when they ended.

use crate::model::{ExecOutcome, ExecRequest};
use crate::service::Workspaces;
use crate::spec::DATA_PATH;
use crate::{Error, Result};
use botstead_authz::{Action, Actor};
use botstead_runtime::{Exec, ExecUser};
use botstead_store::ContainerRecord;
use botstead_types::{BotId, VersionSource};
use std::time::Instant;

/// What is kept of each of a command's outputs.
const OUTPUT_LIMIT: usize = 1 << 20;
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Workspaces {
    /// Runs a command and answers when it ended. Dropping the future kills it. It does not hold
    /// the bot: other operations go on meanwhile, and a stop ends the command.
    ///
    /// # Errors
    /// `BotNotFound`, `WorkspaceNotFound`, `NotRunning`; an empty command, a relative working
    /// directory, a user that does not exist.
    pub async fn exec(
        &self,
        actor: &Actor,
        bot: BotId,
        request: ExecRequest,
    ) -> Result<ExecOutcome> {
        let inner = &self.inner;
        inner.authorized(actor, Action::ExecWorkspace, bot).await?;
        inner.refuse_when_closing()?;
        check(&request)?;
        let version = if request.snapshot_before {
            let made = self
                .snapshot_from(actor, bot, None, VersionSource::PreExec)
                .await?;
            Some(made.version.number)
        } else {
            None
        };
        let record = inner.required_record(bot).await?;
        let exec = as_exec(&record, request);
        let began = Instant::now();
        match inner.runtime.tasks.exec(&record.container, exec).await {
            Ok(output) => Ok(ExecOutcome {
                exec_id: uuid::Uuid::new_v4().to_string(),
                output,
                duration: began.elapsed(),
                version,
            }),
            Err(error) if error.is_not_found() => Err(Error::NotRunning),
            Err(error) => Err(error.into()),
        }
    }
}

fn check(request: &ExecRequest) -> Result<()> {
    let invalid = |code, message: &str| {
        Err(Error::InvalidRequest {
            code,
            message: message.to_owned(),
        })
    };
    let nul = |text: &String| text.contains('\0');
    if request.command.first().is_none_or(String::is_empty) {
        return invalid("invalid_command", "the command is empty");
    }
    if request.command.iter().any(nul) || request.env.iter().any(|(k, v)| nul(k) || nul(v)) {
        return invalid(
            "invalid_command",
            "command and environment cannot contain NUL",
        );
    }
    if request
        .env
        .keys()
        .any(|key| key.is_empty() || key.contains('='))
    {
        return invalid(
            "invalid_env",
            "a variable's name is not empty and has no '='",
        );
    }
    if request
        .cwd
        .as_ref()
        .is_some_and(|cwd| !cwd.starts_with('/') || nul(cwd))
    {
        return invalid(
            "invalid_cwd",
            "cwd is an absolute path inside the workspace",
        );
    }
    Ok(())
}

/// Later variables replace earlier ones of the same name: the image's, ours, the request's.
fn as_exec(record: &ContainerRecord, request: ExecRequest) -> Exec {
    let config = &record.image.config;
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOME={DATA_PATH}")];
    let ours = std::mem::take(&mut env);
    for variable in ours
        .into_iter()
        .chain(
            config
                .env
                .iter()
                .filter(|variable| !variable.starts_with("HOME="))
                .cloned(),
        )
        .chain(
            request
                .env
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        )
    {
        let name = |variable: &str| variable.split('=').next().map(str::to_owned);
        env.retain(|other| name(other) != name(&variable));
        env.push(variable);
    }
    Exec {
        args: request.command,
        env,
        cwd: request.cwd.unwrap_or_else(|| DATA_PATH.to_owned()),
        user: ExecUser(request.user.unwrap_or_else(|| config.user.clone())),
        stdin: request.stdin,
        timeout: request.timeout,
        output_limit: OUTPUT_LIMIT,
    }
}
