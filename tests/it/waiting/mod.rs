//! Orders of a person about waiting mail: retried now, parked, dropped, in every state of the worker.

mod bulk;
mod commands;
mod orders;
