//! Answers, and what each of them tells the browser to keep to.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::{Fault, Reason};

/// What a page of this server's may load: its own scripts and style, and nothing that anybody has put into a text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Headers of all answers.
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// The body of an answer.
pub(super) enum Said {
    /// All of it.
    Whole(Option<Bytes>),
    /// A piece at a time, for as long as somebody has the other end.
    Pieces(mpsc::Receiver<Bytes>),
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// An answer.
pub(super) type Answer = Response<Said>;

/// An answer with this body.
pub(super) fn answer(status: StatusCode, kind: &'static str, said: Said) -> Answer {
    let mut answer = Response::new(said);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // What it says is true now, and is nobody else's.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What is asked for.
pub(super) fn json_answer(value: &Value) -> Answer {
    answer(StatusCode::OK, "application/json", Said::Whole(Some(value.to_string().into())))
}

/// Why it is not answered.
pub(super) fn refusal(status: StatusCode, reason: &str, message: &str) -> Answer {
    let said = json!({ "error": { "reason": reason, "message": message } }).to_string();
    let mut answer = answer(status, "application/json", Said::Whole(Some(said.into())));
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Why it can't be done.
pub(super) fn fault(fault: &Fault) -> Answer {
    let (status, reason) = match fault.reason {
        Reason::Input => (StatusCode::BAD_REQUEST, "input"),
        Reason::State => (StatusCode::CONFLICT, "state"),
        Reason::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    refusal(status, reason, &super::clean::text(&fault.message))
}
