//! Owns telling the product what happened: each event, in order, to each subscriber's webhook.
//!
//! Does not decide what is an event: the facts in the store say so.
