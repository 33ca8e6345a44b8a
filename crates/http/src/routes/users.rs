//! /users: accounts, for admins.

use crate::auth::Caller;
use crate::extract::{Body, IdOf, PageQuery, QueryOf, nullable};
use crate::problem::Problem;
use crate::shapes::List;
use crate::state::SharedState;
use actix_web::{HttpResponse, delete, get, patch, post, web};
use botstead_accounts::{NewUser, Password, User, UserUpdate};
use botstead_types::{PageRequest, Role, UserId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;
use uuid::Uuid;

pub(super) fn configure(config: &mut ServiceConfig<'_>) {
    config
        .service(list_users)
        .service(create_user)
        .service(get_user)
        .service(update_user)
        .service(delete_user);
}

/// What a user may do beyond their own bots.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Role)]
enum RoleShape {
    /// Everything.
    Admin,
    /// Only what concerns their own bots.
    Member,
}

impl From<RoleShape> for Role {
    fn from(role: RoleShape) -> Self {
        match role {
            RoleShape::Admin => Self::Admin,
            RoleShape::Member => Self::Member,
        }
    }
}

impl From<Role> for RoleShape {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
        }
    }
}

/// A user account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(super) struct UserShape {
    /// Its id.
    id: Uuid,
    /// The name to sign in with.
    username: String,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    /// What the user may do.
    role: RoleShape,
    /// An inactive user cannot sign in and their tokens are void.
    is_active: bool,
    /// When it was made.
    created_at: DateTime<Utc>,
}

impl From<User> for UserShape {
    fn from(user: User) -> Self {
        Self {
            id: *user.id.as_uuid(),
            username: user.username,
            display_name: user.display_name,
            role: user.role.into(),
            is_active: user.is_active,
            created_at: user.created_at,
        }
    }
}

/// List user accounts, oldest first.
///
/// Without `limit` a hundred.
#[utoipa::path(
    tag = "users",
    params(PageQuery),
    responses(
        (status = 200, body = List<UserShape>),
        (status = 403, description = "The caller is not an admin."),
    ),
)]
#[get("/users")]
async fn list_users(
    caller: Caller,
    query: QueryOf<PageQuery>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let page = PageRequest::try_from(query.0)?;
    let users = state.services.accounts.users(&caller.actor, &page).await?;
    Ok(HttpResponse::Ok().json(List::from(users.map(UserShape::from))))
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateUser {
    /// 1 to 64 of lower-case letters, digits, `.`, `_` and `-`.
    username: String,
    /// The name to show, at most 128 characters.
    display_name: Option<String>,
    /// What the user may do; `member` when absent.
    role: Option<RoleShape>,
    /// At least 8 characters.
    #[schema(value_type = String, format = Password)]
    password: Password,
}

/// Add a user.
#[utoipa::path(
    tag = "users",
    request_body = CreateUser,
    responses(
        (status = 201, body = UserShape),
        (status = 403, description = "The caller is not an admin."),
        (status = 409, description = "`username_taken`."),
    ),
)]
#[post("/users")]
async fn create_user(
    caller: Caller,
    body: Body<CreateUser>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let user = NewUser {
        username: body.0.username,
        display_name: body.0.display_name,
        role: body.0.role.map_or(Role::Member, Role::from),
        password: body.0.password,
    };
    let accounts = &state.services.accounts;
    let user = accounts.create_user(&caller.actor, user).await?;
    Ok(HttpResponse::Created().json(UserShape::from(user)))
}

/// A user account.
#[utoipa::path(
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user.")),
    responses(
        (status = 200, body = UserShape),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`user_not_found`."),
    ),
)]
#[get("/users/{user_id}")]
async fn get_user(
    caller: Caller,
    id: IdOf<UserId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let user = state.services.accounts.user(&caller.actor, id.0).await?;
    Ok(HttpResponse::Ok().json(UserShape::from(user)))
}

/// What changes in a user; absent fields stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PatchUser {
    /// A new name to show; `null` removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<String>)]
    display_name: Option<Option<String>>,
    /// A new role.
    role: Option<RoleShape>,
    /// Whether the account is active.
    is_active: Option<bool>,
    /// A new password. It voids all tokens of the user.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<Password>,
}

/// Change a user.
#[utoipa::path(
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user.")),
    request_body = PatchUser,
    responses(
        (status = 200, body = UserShape),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`user_not_found`."),
        (status = 409, description = "`last_admin`: nobody could administer the server any more."),
    ),
)]
#[patch("/users/{user_id}")]
async fn update_user(
    caller: Caller,
    id: IdOf<UserId>,
    body: Body<PatchUser>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let update = UserUpdate {
        display_name: body.0.display_name,
        role: body.0.role.map(Role::from),
        is_active: body.0.is_active,
        password: body.0.password,
    };
    let accounts = &state.services.accounts;
    let user = accounts.update_user(&caller.actor, id.0, update).await?;
    Ok(HttpResponse::Ok().json(UserShape::from(user)))
}

/// Remove a user who owns no bots.
#[utoipa::path(
    tag = "users",
    params(("user_id" = Uuid, Path, description = "The user.")),
    responses(
        (status = 204, description = "The user is gone."),
        (status = 403, description = "The caller is not an admin."),
        (status = 404, description = "`user_not_found`."),
        (status = 409, description = "`user_owns_bots` or `last_admin`."),
    ),
)]
#[delete("/users/{user_id}")]
async fn delete_user(
    caller: Caller,
    id: IdOf<UserId>,
    state: web::Data<SharedState>,
) -> Result<HttpResponse, Problem> {
    let accounts = &state.services.accounts;
    accounts.delete_user(&caller.actor, id.0).await?;
    Ok(HttpResponse::NoContent().finish())
}
