//! Owns a worker's claim: obtained, renewed, and used to finish work.
//!
//! Does not decide what a worker may claim; the backend does.

use std::sync::{Mutex, PoisonError};

use super::door::{Claim, Work};
use super::error::StoreError;
use super::fact::Fact;
use super::handle::Store;

/// The claim of one worker.
#[derive(Debug)]
pub struct WorkClaim {
    store: Store,
    work: Work,
    held: Mutex<Option<Claim>>,
}

impl WorkClaim {
    /// A worker without a claim.
    pub const fn new(store: Store, work: Work) -> Self {
        Self {
            store,
            work,
            held: Mutex::new(None),
        }
    }

    /// Claims work, or renews the claim.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn renew(&self) -> Result<Claim, StoreError> {
        let claim = self.store.claim(self.work).await?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim.clone());
        Ok(claim)
    }

    /// Records facts under the claim.
    ///
    /// # Errors
    /// Nothing was recorded.
    pub async fn finish(&self, facts: Vec<Fact>) -> Result<(), StoreError> {
        let claim = match self.held() {
            Some(claim) => claim,
            None => self.renew().await?,
        };
        self.store.finish(&claim, facts).await
    }

    fn held(&self) -> Option<Claim> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }
}
