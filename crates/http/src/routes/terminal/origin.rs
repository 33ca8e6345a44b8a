//! Which pages may open a WebSocket. Browsers let every page try and send no preflight, so the server
//! looks at `Origin` (RFC 6455, section 10.2).

use crate::problem::Problem;
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};

/// Refuses a page that is neither the server's own nor a configured one. What is no browser sends no
/// `Origin`.
pub(super) fn check(request: &HttpRequest, allowed: &[String]) -> Result<(), Problem> {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let host = headers.get(header::HOST);
    if origin
        .to_str()
        .is_ok_and(|origin| is_allowed(origin, host, allowed))
    {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "this page may not open terminals; add its origin to http.allowed_origins",
    ))
}

fn is_allowed(origin: &str, host: Option<&HeaderValue>, allowed: &[String]) -> bool {
    let same = |other: &str| origin.eq_ignore_ascii_case(other.trim_end_matches('/'));
    let own = host
        .and_then(|host| host.to_str().ok())
        .is_some_and(|host| {
            // Behind a proxy that ends TLS the scheme differs.
            same(&format!("http://{host}")) || same(&format!("https://{host}"))
        });
    own || allowed.iter().any(|allowed| same(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_and_configured_pages_are_let_in() {
        let host = HeaderValue::from_static("bots.example:8787");
        let allowed = ["https://panel.example/".to_owned()];
        for (origin, expected) in [
            ("http://bots.example:8787", true),
            ("https://BOTS.example:8787", true),
            ("https://panel.example", true),
            ("https://bots.example", false),
            ("https://evil.example", false),
            ("null", false),
            ("https://panel.example.evil", false),
        ] {
            assert_eq!(
                is_allowed(origin, Some(&host), &allowed),
                expected,
                "{origin}"
            );
        }
    }
}
