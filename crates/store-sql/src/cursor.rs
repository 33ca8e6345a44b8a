//! Pages: where one ended, and what of the rows fetched belongs to it.

use botstead_store::{Error, ErrorKind, Result};
use botstead_types::{Page, PageRequest};
use sea_orm::sea_query::{Expr, IntoColumnRef};

/// A place in a list that is ordered by time and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ByAge {
    pub(crate) created_at: i64,
    pub(crate) id: String,
}

impl ByAge {
    /// Reads the cursor of a page of `list`; each list only takes its own.
    pub(crate) fn of(list: &'static str, page: &PageRequest) -> Result<Option<Self>> {
        let parse = |text: &str| {
            let (created_at, id) = text
                .strip_prefix(list)?
                .strip_prefix('.')?
                .split_once('.')?;
            let place = Self {
                created_at: created_at.parse().ok()?,
                id: id.to_owned(),
            };
            // One spelling per place, and only ids: what comes back is what was given.
            let id_is_uuid = uuid::Uuid::try_parse(id).is_ok();
            (id_is_uuid && place.write(list) == text).then_some(place)
        };
        read(list, page, parse)
    }

    /// The columns of a place, to compare with [`Self::values`]. They are compared as one row: an
    /// index over them is then entered at the place itself.
    pub(crate) fn columns<C: IntoColumnRef>(created_at: C, id: C) -> Expr {
        Expr::tuple([Expr::col(created_at), Expr::col(id)])
    }

    /// The values of this place, in the order of [`Self::columns`].
    pub(crate) fn values(self) -> Expr {
        Expr::tuple([Expr::val(self.created_at), Expr::val(self.id)])
    }

    /// The cursor that continues after this place.
    pub(crate) fn write(&self, list: &'static str) -> String {
        format!("{list}.{}.{}", self.created_at, self.id)
    }
}

/// Reads the cursor of a page of a list that is ordered by number.
pub(crate) fn number(list: &'static str, page: &PageRequest) -> Result<Option<i64>> {
    read(list, page, |text| {
        let number = text.strip_prefix(list)?.strip_prefix('.')?.parse().ok()?;
        (write_number(list, number) == text).then_some(number)
    })
}

/// The cursor that continues after a number.
pub(crate) fn write_number(list: &'static str, number: i64) -> String {
    format!("{list}.{number}")
}

fn read<T>(
    list: &'static str,
    page: &PageRequest,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>> {
    page.cursor
        .as_deref()
        .map(|text| {
            parse(text).ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "read cursor", list))
        })
        .transpose()
}

/// How many rows to fetch for a page: one more than it holds, to know whether another follows.
pub(crate) fn fetch(page: &PageRequest) -> u64 {
    u64::from(limit(page)) + 1
}

/// Makes a page of the rows that were fetched.
pub(crate) fn page<M, T>(
    request: &PageRequest,
    mut rows: Vec<M>,
    cursor: impl Fn(&M) -> String,
    read: impl Fn(M) -> Result<T>,
) -> Result<Page<T>> {
    let limit = limit(request) as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    Ok(Page {
        next_cursor: rows.last().filter(|_| more).map(cursor),
        items: rows.into_iter().map(read).collect::<Result<_>>()?,
    })
}

fn limit(page: &PageRequest) -> u32 {
    page.limit.clamp(1, PageRequest::MAX_LIMIT)
}
