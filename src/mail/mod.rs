//! Owns the structure and the meaning of a mail: addresses, envelope, tokens, threads, reply, kind.
//!
//! Does no I/O, reads no clock, logs nothing and awaits nothing: time is an argument.

pub mod address;
pub mod calendar;
pub mod charset;
pub mod draft;
pub mod dsn;
pub mod envelope;
pub mod fingerprint;
pub mod html;
pub mod job_id;
pub mod kind;
pub mod mailbox;
pub mod markup;
pub mod mime;
mod outline;
pub mod partition;
pub mod received;
pub mod redact;
pub mod reply;
pub mod subject;
pub mod text;
pub mod thread;
pub mod token;
pub mod verdict;
pub mod view;
