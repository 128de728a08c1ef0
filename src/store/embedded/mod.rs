//! Owns the embedded store: everything in one folder that belongs to one process.
//!
//! Does not define the interface; the parent module does.
//!
//! The journal is the truth: append-only segments of checksummed batches, with one sync for all waiting
//! callers. The index holds the result of the facts, and can be rebuilt from the journal. Waiting mail and
//! jobs are in memory.
//!
//! ```text
//! FOLDER/lock                            one process at a time
//! FOLDER/version                         the version of the format
//! FOLDER/journal/mail-NUMBER.segment     accepted mail: envelope and bytes
//! FOLDER/journal/state-NUMBER.segment    facts, one JSON object each, with the mail of a job beside it
//! FOLDER/journal/indexed                 present after an index was completed once
//! FOLDER/index/                          sled
//! FOLDER/mending                         a mend that is not finished
//! FOLDER/set-aside/journal/              damaged bytes that a mend took out
//! ```
//!
//! ```text
//! backend                                one type for callers, writer and readers
//! mail_queue, threads, jobs, event_log   the four parts of the door
//! questions, lookup, readers             reading, on separate threads
//! recent_mappings                        the mappings that need no reading
//! leases, nonces, in_flight              mutual exclusion of callers
//! journal_writer, validator, maintenance the writer's thread
//! state, outbox_state, due, stored_job   the result of all facts
//! journal, segment, frame, location, disk the files
//! index, index_error, pending_writes, shared  the index and its thread
//! opening                                the start
//! survey, mend                           finding damage and gaps, and repairing them
//! messages                               the embedded Messages API's documents
//! ```

pub(super) mod backend;
#[cfg(test)]
mod counts;
pub(super) mod disk;
mod due;
mod event_log;
mod folder;
mod frame;
pub(super) mod in_flight;
pub(super) mod index;
mod index_error;
mod jobs;
mod journal;
mod journal_writer;
pub(super) mod leases;
mod location;
mod lookup;
mod mail_queue;
#[cfg(test)]
pub(super) mod memory_count;
pub(super) mod mend;
pub(super) mod messages;
mod nonces;
mod open_mail;
mod opening;
mod outbox_state;
pub(super) mod pending_writes;
mod questions;
mod readers;
mod recent_mappings;
mod segment;
mod shared;
mod state;
pub(super) mod stored_job;
mod survey;
mod threads;
mod validator;
mod writer_thread;
