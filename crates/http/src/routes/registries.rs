//! /registries: sign-ins, mirrors and certificate authorities of registries, for admins.

use crate::auth::Caller;
use crate::extract::Body;
use crate::problem::Problem;
use crate::shapes::List;
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, put, web};
use botstead_types::RegistryName;
use botstead_workspace::{Credentials, Registry, RegistrySettings, RegistrySource, SignedInBy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_registries)
        .service(set_registry)
        .service(forget_registry);
}

/// Who said what is known of a registry.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RegistrySourceShape {
    /// The operator, in the server's configuration.
    Configuration,
    /// An admin, by this API. It takes the place of all that is configured for the same registry.
    Api,
}

/// How requests to a registry are signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SignInKind {
    /// With a user name and a password.
    Password,
    /// With an identity token.
    IdentityToken,
}

/// What is known of a registry. Secrets are never told.
#[derive(Serialize, ToSchema)]
#[schema(as = Registry)]
struct RegistryShape {
    /// As image references name it. Of what is configured also a part of one (`host/path`), any port
    /// of a host (`host:*`), or all hosts (`*`).
    #[schema(example = "ghcr.io")]
    registry: String,
    /// Who said so.
    source: RegistrySourceShape,
    /// How requests to it are signed in; absent where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    sign_in: Option<SignInKind>,
    /// Who is signed in with a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// What is asked before it, in this order.
    #[schema(example = json!(["mirror.internal:5000"]))]
    mirrors: Vec<String>,
    /// Whether it has certificate authorities of its own.
    has_certificate_authorities: bool,
}

impl From<Registry> for RegistryShape {
    fn from(registry: Registry) -> Self {
        let (sign_in, username) = match registry.signed_in_by {
            None => (None, None),
            Some(SignedInBy::Password { username }) => (Some(SignInKind::Password), Some(username)),
            Some(SignedInBy::IdentityToken) => (Some(SignInKind::IdentityToken), None),
        };
        Self {
            registry: registry.name,
            source: match registry.source {
                RegistrySource::Configuration => RegistrySourceShape::Configuration,
                RegistrySource::Admin => RegistrySourceShape::Api,
            },
            sign_in,
            username,
            mirrors: registry.mirrors.iter().map(ToString::to_string).collect(),
            has_certificate_authorities: registry.has_authorities,
        }
    }
}

/// List what is known of registries, by name and without secrets: what was set by this API, and what is
/// configured for others.
#[utoipa::path(
    tag = "images",
    responses(
        (status = 200, body = List<RegistryShape>),
        (status = 403, description = "The caller is not an admin."),
        (status = 501, description = "`unsupported`: this server's runtime asks no registries."),
    ),
)]
#[get("/registries")]
async fn list_registries(
    caller: Caller,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let workspaces = &state.services.workspaces;
    let known = workspaces.registries(&caller.actor).await?;
    let known = known.into_iter().map(RegistryShape::from);
    Ok(HttpResponse::Ok().json(List::fitting(known, false, &state.config)))
}

/// All that is to be said of a registry: what is absent, it does not have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetRegistry {
    /// Who signs in, with `password`: 1 to 256 bytes without a colon.
    username: Option<String>,
    /// The password or what stands for one, such as an access token: at most 16 KiB.
    #[schema(format = Password)]
    password: Option<String>,
    /// What the registry's token service gives tokens for, in place of `username` and `password`.
    #[schema(format = Password)]
    identity_token: Option<String>,
    /// What is asked before it, in this order: at most 8, each as `host`, `host:port` or `host/path`.
    #[serde(default)]
    #[schema(example = json!(["mirror.internal:5000"]))]
    mirrors: Vec<String>,
    /// Certificates of authorities in PEM. They are trusted for this host beside the system's and those
    /// that are configured for all hosts.
    certificate_authorities: Option<String>,
}

impl TryFrom<SetRegistry> for RegistrySettings {
    type Error = Problem;

    fn try_from(body: SetRegistry) -> Result<Self, Problem> {
        let mirrors: Result<_, _> = body.mirrors.iter().map(|mirror| mirror.parse()).collect();
        Ok(Self {
            credentials: Credentials::of(body.username, body.password, body.identity_token)?,
            mirrors: mirrors?,
            certificate_authorities: body.certificate_authorities,
        })
    }
}

/// Set all that is said of a registry, for the pulls that begin afterwards.
///
/// It takes the place of what was set before and of what is configured for the same registry. It stays
/// over restarts, in a file of secrets on the server; the database and its backups do not have it. Where
/// registries may be reached, and which are spoken to without TLS, is configured alone. Again: no change.
#[utoipa::path(
    tag = "images",
    params(("registry" = String, Path, description = "As image references name it, such as `ghcr.io` or `registry.internal:5000`.")),
    request_body = SetRegistry,
    responses(
        (status = 200, body = RegistryShape),
        (status = 400, description = "`invalid_value`: the registry, a mirror or the sign-in is not valid."),
        (status = 403, description = "The caller is not an admin."),
        (status = 422, description = "`invalid_value`: the certificates cannot be used, or there is too much of it: 100 registries and 1 MiB in all."),
        (status = 501, description = "`unsupported`: this server keeps nothing of registries."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[put("/registries/{registry:.+}")]
async fn set_registry(
    caller: Caller,
    path: web::Path<String>,
    body: Body<SetRegistry>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let name: RegistryName = path.parse()?;
    let settings = body.0.try_into()?;
    let workspaces = &state.services.workspaces;
    let set = workspaces
        .set_registry(&caller.actor, name, settings)
        .await?;
    Ok(HttpResponse::Ok().json(RegistryShape::from(set)))
}

/// Forget what was set for a registry. What is configured for it holds again.
#[utoipa::path(
    tag = "images",
    params(("registry" = String, Path, description = "As image references name it.")),
    responses(
        (status = 204, description = "It is forgotten."),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`registry_not_set`: nothing was set for it by this API."),
        (status = 507, description = "`insufficient_storage`."),
    ),
)]
#[delete("/registries/{registry:.+}")]
async fn forget_registry(
    caller: Caller,
    path: web::Path<String>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let name: RegistryName = path.parse()?;
    let workspaces = &state.services.workspaces;
    workspaces.forget_registry(&caller.actor, name).await?;
    Ok(HttpResponse::NoContent().finish())
}
