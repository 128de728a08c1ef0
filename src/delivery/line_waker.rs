//! Owns the way by which others tell the worker that the first delivery of a partition need not wait any
//! longer.
//!
//! Changes no delivery: a person's order is a fact in the store before the worker hears of it.

use tokio::sync::mpsc;

use crate::mail::partition::PartitionKey;
use crate::store::DeliveryId;

/// Orders that the worker has not taken up; whoever gives more waits.
const ORDERS_MAX: usize = 64;

/// A sender of orders. Clones send to the same worker.
#[derive(Clone, Debug)]
pub struct LineWaker(mpsc::Sender<(PartitionKey, DeliveryId)>);

/// The orders, at the worker.
pub(super) type WakeOrders = mpsc::Receiver<(PartitionKey, DeliveryId)>;

/// A sender and its receiver.
pub(super) fn line_waker() -> (LineWaker, WakeOrders) {
    let (orders, received) = mpsc::channel(ORDERS_MAX);
    (LineWaker(orders), received)
}

impl LineWaker {
    /// Has the worker look at this delivery at once, if it is the first of its partition: neither its next
    /// attempt's time nor a pause of its route counts. Does nothing once the worker has ended.
    pub async fn wake(&self, partition: PartitionKey, delivery: DeliveryId) {
        let _ = self.0.send((partition, delivery)).await;
    }
}
