//! Who is let in: by the headers of their request. Pure.

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, StatusCode};

use super::token::Token;
use crate::serve::{Rights, Who};

/// Where a browser says that a request comes from: https://www.w3.org/TR/fetch-metadata/
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a request is held against.
#[derive(Debug)]
pub(super) struct Guard {
    pub token: Token,
    /// `http` or `https`. Without TLS it listens on a loopback address only.
    pub scheme: &'static str,
}

/// Why a request is not answered.
pub(super) type Refusal = (StatusCode, &'static str);

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut all = headers.get_all(name).iter();
    let (first, second) = (all.next(), all.next());
    match (first.map(|value| value.to_str()), second) {
        (None, _) => Ok(None),
        (Some(Ok(value)), None) => Ok(Some(value)),
        _ => Err((StatusCode::BAD_REQUEST, "a header is there twice, or is no text")),
    }
}

/// The name in `name:port`, `[address]:port`, or without a port.
fn name(host: &str) -> &str {
    let end = if host.starts_with('[') { host.find(']').map(|at| at + 1) } else { host.find(':') };
    host.get(..end.unwrap_or(host.len())).unwrap_or(host)
}

impl Guard {
    /// Whether a request is meant for this server, and comes from its own page if it comes from a page.
    pub(super) fn is_meant(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = only(headers, &HOST)?.ok_or((StatusCode::BAD_REQUEST, "a request says in `Host` whom it is for"))?;
        // A name that somebody else's name server gives a loopback address would make their page this one's. By TLS
        // the browser holds the name against the certificate.
        let is_loopback = ["localhost", "127.0.0.1", "[::1]"].contains(&name(host).to_ascii_lowercase().as_str());
        if self.scheme == "http" && !is_loopback {
            return Err((StatusCode::MISDIRECTED_REQUEST, "this page is called localhost, 127.0.0.1 or [::1]"));
        }
        if let Some(origin) = only(headers, &ORIGIN)?
            && !origin.eq_ignore_ascii_case(&format!("{}://{host}", self.scheme))
        {
            return Err((StatusCode::FORBIDDEN, "this comes from another page"));
        }
        Ok(())
    }

    /// Who asks, by their token: the daemon's own user, or somebody whom `rights` name.
    pub(super) fn who(&self, rights: &Rights, method: &Method, headers: &HeaderMap) -> Result<Who, Refusal> {
        if only(headers, &SITE)?.is_some_and(|site| site != "same-origin" && site != "none") {
            return Err((StatusCode::FORBIDDEN, "this comes from another page"));
        }
        let said = only(headers, &AUTHORIZATION)?.and_then(|said| said.split_once(' '));
        let token = said.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
        let whose = |token| if self.token.is(token) { Some(Who::Owner) } else { rights.of_token(token) };
        let who = token.and_then(whose).ok_or((StatusCode::UNAUTHORIZED, "the token is missing, or is another one"))?;
        // No form of another page can send such.
        let is_json = only(headers, &CONTENT_TYPE)?.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
        if *method == Method::POST && !is_json {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "what is to be done is said as application/json"));
        }
        Ok(who)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn guard(scheme: &'static str, path: &Path) -> Guard {
        Guard { token: Token::kept_in(path).unwrap(), scheme }
    }

    #[test]
    fn only_this_servers_own_page_may_ask() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, tls) = (guard("http", &dir.path().join("a")), guard("https", &dir.path().join("b")));
        for (host, origin, by_http, by_tls) in [
            (Some("127.0.0.1:26366"), None, 200, 200),
            // As through `ssh -L`.
            (Some("localhost:8080"), None, 200, 200),
            (Some("[::1]:26366"), None, 200, 200),
            (Some("LOCALHOST"), None, 200, 200),
            (Some("evil.example:26366"), None, 421, 200),
            (Some("127.0.0.1.evil.example"), None, 421, 200),
            (Some("[::1"), None, 421, 200),
            (Some(""), None, 421, 200),
            (None, None, 400, 400),
            (Some("localhost:1"), Some("http://localhost:1"), 200, 403),
            (Some("localhost:1"), Some("https://localhost:1"), 403, 200),
            (Some("localhost:1"), Some("http://localhost:2"), 403, 403),
            (Some("localhost:1"), Some("http://evil.example"), 403, 403),
            (Some("localhost:1"), Some("null"), 403, 403),
        ] {
            let pairs = [("host", host), ("origin", origin)].into_iter().filter_map(|(name, v)| Some((name, v?)));
            let headers = headers(&pairs.collect::<Vec<_>>());
            let code = |guard: &Guard| guard.is_meant(&headers).err().map_or(200, |(status, _)| status.as_u16());
            assert_eq!((code(&plain), code(&tls)), (by_http, by_tls), "{host:?} {origin:?}");
        }
        let twice = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert_eq!(plain.is_meant(&twice).unwrap_err().0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn only_who_has_the_token_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard("http", &dir.path().join("a"));
        let right = format!("Bearer {}", guard.token.text());
        let code = |method: &Method, pairs: &[(&str, &str)]| {
            guard.who(&Rights::default(), method, &headers(pairs)).err().map_or(200, |(status, _)| status.as_u16())
        };
        let (get, post) = (&Method::GET, &Method::POST);
        let json = ("content-type", "application/json");
        for (method, pairs, expected) in [
            (get, vec![("authorization", right.as_str())], 200),
            (get, vec![("authorization", right.as_str()), ("sec-fetch-site", "same-origin")], 200),
            (get, vec![("authorization", right.as_str()), ("sec-fetch-site", "cross-site")], 403),
            (get, vec![("authorization", right.as_str()), ("sec-fetch-site", "same-site")], 403),
            (get, vec![], 401),
            (get, vec![("authorization", "Bearer ")], 401),
            (get, vec![("authorization", "Bearer wrong")], 401),
            (get, vec![("authorization", right.trim_start_matches("Bearer "))], 401),
            (get, vec![("authorization", &right.replace("Bearer", "Basic"))], 401),
            (get, vec![("cookie", right.as_str())], 401),
            (post, vec![("authorization", right.as_str())], 415),
            (post, vec![("authorization", right.as_str()), ("content-type", "text/plain")], 415),
            (post, vec![("authorization", right.as_str()), json], 200),
            (post, vec![json], 401),
        ] {
            assert_eq!(code(method, &pairs), expected, "{method} {pairs:?}");
        }
    }
}
