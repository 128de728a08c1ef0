//! Owns the set of waiting deliveries, in order of arrival, in total and in each partition.
//!
//! Does not decide when they change; `state` does.

use std::collections::BTreeSet;

use crate::mail::partition::PartitionKey;
use crate::store::id::{DeliveryId, MailId};

/// The deliveries that wait.
#[derive(Debug, Default)]
pub(super) struct WaitingDeliveries {
    ids: BTreeSet<DeliveryId>,
    /// The deliveries whose partition is known, by partition.
    by_partition: BTreeSet<(PartitionKey, DeliveryId)>,
    /// Bytes of their mails; a mail counts once for each of its deliveries.
    bytes: u64,
}

impl WaitingDeliveries {
    pub(super) fn insert(&mut self, id: DeliveryId, partition: Option<PartitionKey>, bytes: u32) {
        if self.ids.insert(id) {
            self.bytes += u64::from(bytes);
            self.by_partition
                .extend(partition.map(|partition| (partition, id)));
        }
    }

    pub(super) fn remove(&mut self, id: DeliveryId, partition: Option<PartitionKey>, bytes: u32) {
        if self.ids.remove(&id) {
            self.bytes -= u64::from(bytes);
            if let Some(partition) = partition {
                self.by_partition.remove(&(partition, id));
            }
        }
    }

    pub(super) const fn ids(&self) -> &BTreeSet<DeliveryId> {
        &self.ids
    }

    /// The number of entries of both tables.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids.len() + self.by_partition.len()
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The oldest delivery of a partition.
    pub(super) fn first_of(&self, partition: PartitionKey) -> Option<DeliveryId> {
        let lowest = DeliveryId {
            mail: MailId(0),
            recipient: 0,
        };
        let first = self.by_partition.range((partition, lowest)..).next()?;
        (first.0 == partition).then_some(first.1)
    }
}
