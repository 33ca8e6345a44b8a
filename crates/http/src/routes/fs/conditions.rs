//! Which part of a file a request asks for, and on which conditions (RFC 9110, sections 13 and 14).

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header::{
    self, ByteRangeSpec, EntityTag, Header, HeaderName, IfMatch, IfNoneMatch, IfRange, Range,
};
use chrono::{DateTime, NaiveDateTime, Utc};

/// What tells whether a file is the one that a client knows. What the kernel makes up has neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Validators {
    /// A strong tag.
    pub(super) tag: Option<EntityTag>,
    /// When its content changed last.
    pub(super) modified: Option<DateTime<Utc>>,
}

/// What the conditions of a request ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Send,
    NotModified,
    /// The header whose condition does not hold.
    Failed(HeaderName),
}

/// The conditions in the order of section 13.2.2. One that cannot be read is none.
pub(super) fn condition(request: &HttpRequest, validators: &Validators) -> Condition {
    let has = |name| request.headers().contains_key(name);
    let tag = validators.tag.as_ref();
    if has(header::IF_MATCH) {
        let matches = match IfMatch::parse(request) {
            Ok(IfMatch::Items(tags)) => tags
                .iter()
                .any(|given| tag.is_some_and(|tag| given.strong_eq(tag))),
            Ok(IfMatch::Any) | Err(_) => true,
        };
        if !matches {
            return Condition::Failed(header::IF_MATCH);
        }
    } else if let Some(changed) = is_after(request, header::IF_UNMODIFIED_SINCE, validators)
        && changed
    {
        return Condition::Failed(header::IF_UNMODIFIED_SINCE);
    }
    if has(header::IF_NONE_MATCH) {
        let matches = match IfNoneMatch::parse(request) {
            Ok(IfNoneMatch::Any) => true,
            Ok(IfNoneMatch::Items(tags)) => tags
                .iter()
                .any(|given| tag.is_some_and(|tag| given.weak_eq(tag))),
            Err(_) => false,
        };
        if matches {
            return Condition::NotModified;
        }
    } else if is_after(request, header::IF_MODIFIED_SINCE, validators) == Some(false) {
        return Condition::NotModified;
    }
    Condition::Send
}

/// Whether a file changed after the date in a header; `None` where either is not known.
fn is_after(request: &HttpRequest, name: HeaderName, validators: &Validators) -> Option<bool> {
    let mut given = request.headers().get_all(name);
    let (Some(date), None) = (given.next(), given.next()) else {
        return None;
    };
    let since = parse_date(date.to_str().ok()?)?;
    // Dates in headers have whole seconds.
    Some(validators.modified?.timestamp() > since.timestamp())
}

/// A date in a header, in each of the three forms of section 5.6.7.
fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    [
        "%a, %d %b %Y %H:%M:%S GMT",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
    ]
    .iter()
    .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
    .map(|date| date.and_utc())
}

/// A time as a date in a header.
pub(super) fn to_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A part of a file whose size is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// From this byte to that one, both in it, or to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// The part that is asked for; `None` is all of it. More than one range, and units that are not bytes, are
/// answered with all of it, which is allowed.
pub(super) fn wanted(request: &HttpRequest) -> Option<Wanted> {
    // Of no other method (section 14.2).
    if request.method() != Method::GET || !request.headers().contains_key(header::RANGE) {
        return None;
    }
    let Ok(Range::Bytes(parts)) = Range::parse(request) else {
        return None;
    };
    let [part] = parts.as_slice() else {
        return None;
    };
    match *part {
        ByteRangeSpec::FromTo(first, last) if first <= last => {
            Some(Wanted::From(first, Some(last)))
        }
        ByteRangeSpec::FromTo(..) => None,
        ByteRangeSpec::From(first) => Some(Wanted::From(first, None)),
        ByteRangeSpec::Last(length) => Some(Wanted::Last(length)),
    }
}

/// Whether a part may be sent: not where `If-Range` names another file. A date is too coarse to prove that
/// nothing changed.
pub(super) fn if_range_holds(request: &HttpRequest, validators: &Validators) -> bool {
    if !request.headers().contains_key(header::IF_RANGE) {
        return true;
    }
    match (IfRange::parse(request), &validators.tag) {
        (Ok(IfRange::EntityTag(given)), Some(tag)) => given.strong_eq(tag),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    /// In 2026, with half a second that no header can say.
    fn validators() -> Validators {
        Validators {
            tag: Some(EntityTag::new_strong("r1".to_owned())),
            modified: DateTime::from_timestamp(1_795_478_400, 500_000_000),
        }
    }

    const THEN: &str = "Tue, 24 Nov 2026 00:00:00 GMT";
    const BEFORE: &str = "Mon, 23 Nov 2026 23:59:59 GMT";

    #[test]
    fn conditions_compare_tags_and_dates_in_the_order_of_the_standard() {
        use Condition::{Failed, NotModified, Send};
        let cases: [(&[(&str, &str)], Condition); 22] = [
            (&[], Send),
            (&[("if-match", "\"r1\"")], Send),
            (&[("if-match", "\"r0\", \"r1\"")], Send),
            (&[("if-match", "*")], Send),
            (&[("if-match", "\"r0\"")], Failed(header::IF_MATCH)),
            (&[("if-match", "W/\"r1\"")], Failed(header::IF_MATCH)),
            (&[("if-none-match", "\"r1\"")], NotModified),
            (&[("if-none-match", "W/\"r1\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", "\"r0\"")], Send),
            (&[("if-modified-since", THEN)], NotModified),
            (&[("if-modified-since", BEFORE)], Send),
            (
                &[("if-modified-since", "Tuesday, 24-Nov-26 00:00:00 GMT")],
                NotModified,
            ),
            (
                &[("if-modified-since", "Tue Nov 24 00:00:00 2026")],
                NotModified,
            ),
            (&[("if-modified-since", "yesterday")], Send),
            (&[("if-unmodified-since", THEN)], Send),
            (
                &[("if-unmodified-since", BEFORE)],
                Failed(header::IF_UNMODIFIED_SINCE),
            ),
            (
                &[("if-unmodified-since", "Thu, 01 Jan 1969 00:00:00 GMT")],
                Send,
            ),
            (
                &[("if-unmodified-since", "Wed, 01 Jan 1969 00:00:00 GMT")],
                Failed(header::IF_UNMODIFIED_SINCE),
            ),
            // Tags are the better ones.
            (
                &[("if-match", "\"r1\""), ("if-unmodified-since", BEFORE)],
                Send,
            ),
            (
                &[("if-none-match", "\"r0\""), ("if-modified-since", THEN)],
                Send,
            ),
            (
                &[("if-unmodified-since", THEN), ("if-none-match", "\"r1\"")],
                NotModified,
            ),
        ];
        for (headers, expected) in cases {
            let mut request = TestRequest::default();
            for header in headers {
                request = request.append_header(*header);
            }
            let found = condition(&request.to_http_request(), &validators());
            assert_eq!(found, expected, "{headers:?}");
        }
    }

    #[test]
    fn what_has_no_validators_is_only_known_to_be_there() {
        for (name, value, expected) in [
            ("if-match", "*", Condition::Send),
            ("if-match", "\"\"", Condition::Failed(header::IF_MATCH)),
            ("if-none-match", "*", Condition::NotModified),
            ("if-none-match", "\"\"", Condition::Send),
            ("if-modified-since", THEN, Condition::Send),
            ("if-unmodified-since", BEFORE, Condition::Send),
        ] {
            let request = TestRequest::default().insert_header((name, value));
            let found = condition(&request.to_http_request(), &Validators::default());
            assert_eq!(found, expected, "{name}: {value}");
        }
    }

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (value, expected) in [
            ("bytes=0-9", Some(Wanted::From(0, Some(9)))),
            ("bytes=90-", Some(Wanted::From(90, None))),
            ("bytes=-10", Some(Wanted::Last(10))),
            ("bytes=-0", Some(Wanted::Last(0))),
            ("bytes=9-0", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-1", None),
            ("nonsense", None),
        ] {
            let request = TestRequest::default().insert_header(("range", value));
            assert_eq!(wanted(&request.to_http_request()), expected, "{value}");
        }
    }

    #[test]
    fn a_part_is_sent_of_the_file_that_if_range_names() {
        for (value, expected) in [
            ("\"r1\"", true),
            ("\"r0\"", false),
            ("W/\"r1\"", false),
            (THEN, false),
        ] {
            let request = TestRequest::default().insert_header(("if-range", value));
            let holds = if_range_holds(&request.to_http_request(), &validators());
            assert_eq!(holds, expected, "{value}");
        }
        assert!(if_range_holds(
            &TestRequest::default().to_http_request(),
            &Validators::default()
        ));
    }

    #[test]
    fn dates_before_1970_are_dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (-1, "Wed, 31 Dec 1969 23:59:59 GMT"),
            (-9_223_372_036, "Tue, 21 Sep 1677 00:12:44 GMT"),
        ] {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            assert_eq!(to_date(time), text);
            assert_eq!(parse_date(text), Some(time));
        }
    }
}
