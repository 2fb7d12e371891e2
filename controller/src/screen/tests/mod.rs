//! What the screens show, byte by byte where that is what matters.

mod json;
mod live;
mod plain;
mod plan;
mod run;
mod samples;
mod table;
mod text;
