//! A person's orders about mail that waits: retried now, parked, dropped, whatever the worker does meanwhile.

mod commands;
mod orders;
