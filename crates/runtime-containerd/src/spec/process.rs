//! The processes of a container: that of its task, and commands in it.

use super::Host;
use crate::cdi::Edits;
use botstead_runtime::{ContainerSpec, Exec};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, Process, ProcessBuilder, UserBuilder,
};

/// Those that Docker gives by default.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The bounding set is everybody's; only 0 has some of it from the start.
fn capabilities(uid: u32) -> LinuxCapabilities {
    let all = Capabilities::from(CAPABILITIES);
    let own = (uid == 0).then(|| all.clone());
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(all))
        .set_effective(own.clone())
        .set_permitted(own)
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

fn process(
    (uid, gid): (u32, u32),
    args: &[String],
    env: Vec<String>,
    cwd: &str,
) -> Result<Process, OciSpecError> {
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(uid).gid(gid).build()?)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(capabilities(uid))
        .no_new_privileges(false)
        .build()?;
    // Those of containerd are inherited: not every host lets them be raised, and runc then fails.
    process.set_rlimits(None);
    Ok(process)
}

/// The task's process.
pub(super) fn main(
    spec: &ContainerSpec,
    host: &Host<'_>,
    edits: &Edits,
) -> Result<Process, OciSpecError> {
    let env = environment(spec, edits);
    let mut process = process((0, 0), &spec.process.args, env, &spec.process.cwd)?;
    // Never below 0 by way of runc, which has the right to: what runc gives, every process inside may
    // take for itself. See `tasks::protect`.
    let score = spec.process.oom_score_adj.max(0);
    process.set_oom_score_adj(Some(score.max(host.oom_floor)));
    Ok(process)
}

/// A command, as the JSON that containerd takes.
pub(crate) fn command(exec: &Exec, user: (u32, u32)) -> Result<Vec<u8>, OciSpecError> {
    let process = process(user, &exec.args, exec.env.clone(), &exec.cwd)?;
    Ok(serde_json::to_vec(&process)?)
}

/// The variables of the image, then those of the host's devices, then the container's own; of two
/// with one name the last counts.
fn environment(spec: &ContainerSpec, edits: &Edits) -> Vec<String> {
    let zone = spec.timezone.as_ref().map(|zone| format!("TZ={zone}"));
    let all = [PATH.to_owned()]
        .into_iter()
        .chain(spec.image.config.env.iter().cloned());
    let all = all.chain(edits.env.iter().cloned()).chain(zone);
    let mut env: Vec<String> = Vec::new();
    for variable in all.chain(spec.process.env.iter().cloned()) {
        let name = variable.split('=').next().unwrap_or_default();
        env.retain(|other| other.split('=').next() != Some(name));
        env.push(variable);
    }
    env
}
