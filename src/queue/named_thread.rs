//! Owns the identification of the thread that a token names.
//!
//! Does not verify tokens.

use std::fmt;

use crate::mail::token::{Claims, ThreadKey};
use crate::store::{Store, StoreError};

/// The thread of a token. A token contains the id of a thread only if the id is a UUID, or in the first
/// format; for any other id it contains a hash, and the store that issued the token has the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedThread {
    /// The thread's id in the product.
    Known(String),
    /// The hash of an id that this store does not know.
    Unknown(ThreadKey),
}

impl NamedThread {
    /// The thread of a verified token of this route.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn find(store: &Store, route: &str, claims: &Claims) -> Result<Self, StoreError> {
        if let Some(id) = &claims.thread_id {
            return Ok(Self::Known(id.clone()));
        }
        if let Some(mapping) = store.thread(route, claims.thread).await? {
            return Ok(Self::Known(mapping.thread_id));
        }
        let issued = store.thread_by_token(claims.digest).await?;
        Ok(issued.map_or_else(|| Self::without_store(claims), Self::Known))
    }

    /// The thread, as far as the token itself contains it.
    pub fn without_store(claims: &Claims) -> Self {
        claims
            .told_thread_id()
            .map_or(Self::Unknown(claims.thread), Self::Known)
    }

    /// The thread's id in the product, if it is known.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Known(id) => Some(id),
            Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for NamedThread {
    /// Writes the id, or `unknown thread (hash …)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(id) => f.write_str(id),
            Self::Unknown(key) => write!(f, "unknown thread (hash {key})"),
        }
    }
}
