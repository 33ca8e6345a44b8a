//! Commands on a backend that gives no way to the agent: its own exec runs them, and only the form
//! that answers at the end exists.

use super::model::{ExecExit, ExecOutcome, ExecRequest, OutputPosition};
use super::output::OUTPUT_LIMIT;
use crate::service::Workspaces;
use crate::spec::DATA_PATH;
use crate::{Error, Result};
use botstead_runtime::{Exec, ExecUser};
use botstead_types::{BotId, ImageConfig, VersionNumber};
use std::collections::BTreeMap;
use std::time::Instant;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Workspaces {
    pub(super) async fn exec_without_agent(
        &self,
        bot: BotId,
        request: ExecRequest,
        version: Option<VersionNumber>,
        mut room: impl AsyncFnMut(&[u8], &[u8]) -> bool,
    ) -> Result<ExecOutcome> {
        if request.stdin_open {
            let words = "this backend cannot keep a command's input open";
            return Err(Error::Unsupported(words.to_owned()));
        }
        if request.terminal.is_some() {
            let words = "this backend cannot run a command in a terminal";
            return Err(Error::Unsupported(words.to_owned()));
        }
        let inner = &self.inner;
        let record = inner.required_record(bot).await?;
        let image = inner.resolved(&record.image).await?;
        // What it prints comes at its end, and is in memory until then: of all bytes NUL takes most to pass on.
        let output_limit = match room(&vec![0; 2 * OUTPUT_LIMIT], &[]).await {
            true => OUTPUT_LIMIT,
            false => 0,
        };
        let exec = as_exec(&image.config, request, output_limit);
        let kills = inner.out_of_memory_kills(bot).await;
        let began = Instant::now();
        match inner.runtime.tasks.exec(&record.container, exec).await {
            Ok(output) => Ok(ExecOutcome {
                exec_id: super::new_id(),
                end: OutputPosition {
                    stdout: output.stdout.len() as u64,
                    stderr: output.stderr.len() as u64,
                },
                stdout: output.stdout,
                stderr: output.stderr,
                truncated: output.truncated,
                // It keeps what came first and does not count the rest.
                stdout_gap: None,
                stderr_gap: None,
                exit: Some(ExecExit {
                    code: output.exit_code,
                    timed_out: output.timed_out,
                    output_incomplete: false,
                    truncated: output.truncated,
                    duration: began.elapsed(),
                    out_of_memory: inner.killed_since(bot, kills).await,
                    message: None,
                }),
                version,
            }),
            Err(error) if error.is_not_found() => Err(Error::NotRunning),
            Err(error) => Err(error.into()),
        }
    }
}

/// Later variables replace earlier ones of the same name: the image's, ours, the request's.
fn as_exec(config: &ImageConfig, request: ExecRequest, output_limit: usize) -> Exec {
    let ours = [DEFAULT_PATH.to_owned(), format!("HOME={DATA_PATH}")];
    let image = config.env.iter().filter(|v| !v.starts_with("HOME="));
    let own = request
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mut env = BTreeMap::new();
    for variable in ours.into_iter().chain(image.cloned()).chain(own) {
        let name = variable.split('=').next().map(str::to_owned);
        env.insert(name, variable);
    }
    Exec {
        args: request.command,
        env: env.into_values().collect(),
        cwd: request.cwd.unwrap_or_else(|| DATA_PATH.to_owned()),
        user: ExecUser(request.user.unwrap_or_else(|| config.user.clone())),
        stdin: request.stdin,
        timeout: request.timeout,
        output_limit,
    }
}
