//! Owns what a mail is and what it says: addresses, envelope, tokens, threads, reply, kind.
//!
//! Does no I/O, reads no clock, logs nothing and awaits nothing: time is an argument.

pub mod address;
pub mod draft;
pub mod dsn;
pub mod envelope;
pub mod fingerprint;
pub mod kind;
pub mod lane;
pub mod mailbox;
pub mod markup;
pub mod outgoing;
mod outline;
pub mod prescan;
pub mod reply;
pub mod subject;
pub mod thread;
pub mod token;
pub mod trace;
pub mod verdict;
pub mod view;
