//! From the database's errors to the store's kinds.

use botstead_store::{Error, ErrorKind};
use sea_orm::sqlx::{self, sqlite::SqliteError};
use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// Describes a database error as a failure of `operation` on `subject`.
pub(crate) fn failed(
    operation: &'static str,
    subject: impl ToString,
) -> impl FnOnce(DbErr) -> Error {
    move |error| Error::new(kind(&error), operation, subject).with_source(error)
}

/// A row that does not say what it should: written by another program, or damaged.
pub(crate) fn unreadable(
    operation: &'static str,
    subject: impl ToString,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(ErrorKind::Internal, operation, subject).with_source(source)
}

/// What kind of failure a database error is. A broken reference is `NotFound`: what a row refers
/// to is not there.
pub(crate) fn kind(error: &DbErr) -> ErrorKind {
    match error.sql_err() {
        Some(SqlErr::UniqueConstraintViolation(_)) => return ErrorKind::AlreadyExists,
        Some(SqlErr::ForeignKeyConstraintViolation(_)) => return ErrorKind::NotFound,
        _ => {}
    }
    match (error, sqlx_error(error)) {
        (DbErr::ConnectionAcquire(_), _) => ErrorKind::Unavailable,
        (_, Some(error)) => sqlx_kind(error),
        (DbErr::Conn(_), None) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

/// Whether the file is damaged or no database: CORRUPT, NOTADB.
pub(crate) fn is_damage(error: &DbErr) -> bool {
    matches!(sqlite_code(error), Some(11 | 26))
}

/// Whether others keep the file: BUSY, LOCKED, or a connection that was waited for in vain.
pub(crate) fn is_in_use(error: &DbErr) -> bool {
    matches!(sqlite_code(error), Some(5 | 6))
        || matches!(error, DbErr::ConnectionAcquire(_))
        || matches!(sqlx_error(error), Some(sqlx::Error::PoolTimedOut))
}

fn sqlite_code(error: &DbErr) -> Option<i32> {
    let Some(sqlx::Error::Database(error)) = sqlx_error(error) else {
        return None;
    };
    error.try_downcast_ref::<SqliteError>()?;
    Some(primary(&error.code()?))
}

fn sqlx_kind(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            if error.try_downcast_ref::<SqliteError>().is_some() {
                sqlite_kind(&code)
            } else {
                postgres_kind(&code)
            }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// Result codes of SQLite (<https://sqlite.org/rescode.html>).
fn sqlite_kind(code: &str) -> ErrorKind {
    match primary(code) {
        // BUSY, LOCKED, IOERR, CANTOPEN, PROTOCOL.
        5 | 6 | 10 | 14 | 15 => ErrorKind::Unavailable,
        // NOMEM, FULL, TOOBIG.
        7 | 13 | 18 => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Internal,
    }
}

/// The low byte of an extended code is the primary one.
fn primary(code: &str) -> i32 {
    code.parse::<i32>().unwrap_or_default() & 0xff
}

/// SQLSTATE classes of PostgreSQL (its documentation, appendix A).
fn postgres_kind(code: &str) -> ErrorKind {
    match code.get(..2).unwrap_or_default() {
        "53" => ErrorKind::ResourceExhausted,
        // Connection exceptions, serialization failures and deadlocks, locks, shut-down.
        "08" | "40" | "55" | "57" => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_kinds() {
        for (code, kind) in [
            ("5", ErrorKind::Unavailable),
            ("517", ErrorKind::Unavailable),
            ("6", ErrorKind::Unavailable),
            ("778", ErrorKind::Unavailable),
            ("13", ErrorKind::ResourceExhausted),
            ("11", ErrorKind::Internal),
            ("", ErrorKind::Internal),
        ] {
            assert_eq!(sqlite_kind(code), kind, "{code}");
        }
        assert_eq!(postgres_kind("40001"), ErrorKind::Unavailable);
        assert_eq!(postgres_kind("53100"), ErrorKind::ResourceExhausted);
        assert_eq!(postgres_kind("42601"), ErrorKind::Internal);
    }
}
