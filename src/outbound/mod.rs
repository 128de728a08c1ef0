//! Owns outgoing mail: a message of the product becomes a mail, waits in the outbox and goes to a relay.
//!
//! Does not know HTTP, and reads no incoming mail.

mod attempt;
mod clock_jumps;
pub mod compose;
pub mod dkim;
pub mod intake;
pub mod metrics;
pub mod rate;
pub mod relay;
pub mod urgent;
pub mod worker;
