//! Owns random numbers for waits that should differ between callers.
//!
//! Does not make keys: the number may be zero when the system has no randomness.

/// A random number, or zero if the system gives none: then all waits are equally long.
pub fn number() -> u64 {
    getrandom::u64().unwrap_or_default()
}
