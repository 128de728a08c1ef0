//! Owns the channel by which other parts notify the worker that the first delivery of a partition need not
//! wait any longer.
//!
//! Changes no delivery: the change by a person is a fact in the store before the worker is notified.

use tokio::sync::mpsc;

use crate::mail::partition::PartitionKey;
use crate::store::DeliveryId;

/// The maximum number of notices that the worker has not handled; a further sender waits.
const ORDERS_MAX: usize = 64;

/// A sender of notices. Clones notify the same worker.
#[derive(Clone, Debug)]
pub struct LineWaker(mpsc::Sender<(PartitionKey, DeliveryId)>);

/// The notices, at the worker.
pub(super) type WakeOrders = mpsc::Receiver<(PartitionKey, DeliveryId)>;

/// A sender and its receiver.
pub(super) fn line_waker() -> (LineWaker, WakeOrders) {
    let (orders, received) = mpsc::channel(ORDERS_MAX);
    (LineWaker(orders), received)
}

impl LineWaker {
    /// Makes the worker attempt this delivery at once, if it is the first of its partition, regardless of
    /// the time of its next attempt and of a pause of its route. Does nothing after the worker has ended.
    pub async fn wake(&self, partition: PartitionKey, delivery: DeliveryId) {
        let _ = self.0.send((partition, delivery)).await;
    }
}
