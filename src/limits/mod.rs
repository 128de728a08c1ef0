//! Owns the shared limits: bytes in memory, concurrent connections, events a second.
//!
//! Does not respond to callers over a limit, does no I/O, and reads no clock except for the second in which
//! log lines are counted.

mod connections;
mod load;
mod log;
mod memory;
mod rate;

pub use connections::{ConnectionLimiter, ConnectionLimits, ConnectionPermit};
pub use load::{LoadLevel, LoadMonitor};
pub use log::LogThrottle;
pub use memory::{Holder, MemoryBudget, MemoryLimits, MemoryPermit, SMALL_BYTES_MAX};
pub use rate::{Rate, RateExceeded, RateLimiter};
