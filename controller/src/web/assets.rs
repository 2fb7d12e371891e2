//! What the page consists of. None of it is about anybody, so it is given to everybody.

use hyper::StatusCode;
use hyper::body::Bytes;

use super::answer::{Answer, Said, answer};

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Paths, what they are, and what they have.
const ASSETS: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
    ("/app.js", SCRIPT, include_str!("assets/app.js")),
    ("/dom.js", SCRIPT, include_str!("assets/dom.js")),
    ("/host.js", SCRIPT, include_str!("assets/host.js")),
    ("/lists.js", SCRIPT, include_str!("assets/lists.js")),
    ("/plan.js", SCRIPT, include_str!("assets/plan.js")),
    ("/run.js", SCRIPT, include_str!("assets/run.js")),
    ("/server.js", SCRIPT, include_str!("assets/server.js")),
    ("/state.js", SCRIPT, include_str!("assets/state.js")),
];

/// What is at a path.
pub(super) fn asset(path: &str) -> Option<Answer> {
    let (_, kind, text) = ASSETS.iter().find(|(name, ..)| *name == path)?;
    Some(answer(StatusCode::OK, kind, Said::Whole(Some(Bytes::from_static(text.as_bytes())))))
}
