//! Owns the operations on many deliveries at once, in pages.
//!
//! Does not know other rules than those of the operations on one delivery.

use super::QueueError;
use super::incoming::{MailQueue, QueueEnd, QueueState, QueuedMail};
use crate::store::DeliveryId;

/// The number of deliveries that one page examines.
const PAGE_DELIVERIES: usize = 100;

/// The deliveries that a bulk operation selects.
#[derive(Clone, Debug)]
pub struct MailFilter {
    /// Their state.
    pub state: QueueState,
    /// The name of their route; `None` selects every route.
    pub route: Option<String>,
    /// A text that the reason contains for which they are parked, or for which their last attempt failed.
    pub reason: Option<String>,
    /// Only deliveries after this one.
    pub after: Option<DeliveryId>,
    /// Only deliveries up to this one, so that mail that arrives meanwhile is not selected.
    pub until: Option<DeliveryId>,
}

/// The operation on each selected delivery.
#[derive(Clone, Debug)]
pub enum BulkAction {
    /// Nothing is changed, so the selected deliveries are only counted.
    Count,
    /// As [`MailQueue::retry`].
    Retry,
    /// As [`MailQueue::park`], with the reason that the person gave.
    Park(Option<String>),
    /// As [`MailQueue::drop`].
    Drop,
}

/// The result of one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BulkPage {
    /// The number of deliveries that the filter selects.
    pub selected: u64,
    /// The number that was changed, apart from `delivered`.
    pub changed: u64,
    /// The number of dropped deliveries that count as delivered, because the product has their messages.
    pub delivered: u64,
    /// The number that was left, because they are being delivered now.
    pub busy: u64,
    /// The number that was left, because their state does not allow the operation: they wait behind another,
    /// or their state has changed since the page was read.
    pub left: u64,
    /// The last selected delivery.
    pub last: Option<DeliveryId>,
    /// The delivery after which the next page begins; `None` after the last page.
    pub next: Option<DeliveryId>,
}

impl MailFilter {
    fn selects(&self, mail: &QueuedMail) -> bool {
        let parked = mail.delivery.parked.as_deref();
        let failed = mail.pending_retry.as_ref().map(|p| p.reason.as_str());
        let is_route = |name: &String| *name == mail.delivery.recipient.route;
        let is_reason = |text: &String| parked.or(failed).is_some_and(|why| why.contains(text));
        self.route.as_ref().is_none_or(is_route) && self.reason.as_ref().is_none_or(is_reason)
    }
}

impl MailQueue {
    /// Applies an operation to the selected deliveries among the next 100 of their state.
    ///
    /// # Errors
    /// [`QueueError::Store`]; the deliveries before the failed one are changed.
    pub async fn change_page(
        &self,
        filter: &MailFilter,
        action: &BulkAction,
    ) -> Result<BulkPage, QueueError> {
        let mut found = self
            .list(filter.state, filter.after, PAGE_DELIVERIES)
            .await?;
        let is_full = found.len() == PAGE_DELIVERIES;
        let next = found.last().map(|mail| mail.delivery.id);
        let next = next.filter(|id| is_full && filter.until.is_none_or(|until| *id < until));
        found.retain(|mail| {
            filter.until.is_none_or(|until| mail.delivery.id <= until) && filter.selects(mail)
        });
        let mut page = BulkPage {
            selected: found.len() as u64,
            last: found.last().map(|mail| mail.delivery.id),
            next,
            ..BulkPage::default()
        };
        if matches!(action, BulkAction::Park(_) | BulkAction::Drop) {
            // The end of the first mail of a thread starts an attempt at the second, so the first is last.
            found.reverse();
        }
        for mail in &found {
            self.change_one(mail.delivery.id, action, &mut page).await?;
        }
        Ok(page)
    }

    async fn change_one(
        &self,
        id: DeliveryId,
        action: &BulkAction,
        page: &mut BulkPage,
    ) -> Result<(), QueueError> {
        let done = match action {
            BulkAction::Count => return Ok(()),
            BulkAction::Retry => self.retry(id).await.map(|()| &mut page.changed),
            BulkAction::Park(reason) => {
                let parked = self.park(id, reason.as_deref()).await;
                parked.map(|()| &mut page.changed)
            }
            BulkAction::Drop => self.drop(id).await.map(|end| match end {
                QueueEnd::Dropped => &mut page.changed,
                QueueEnd::Delivered => &mut page.delivered,
            }),
        };
        let count = match done {
            Ok(count) => count,
            Err(QueueError::Busy) => &mut page.busy,
            Err(QueueError::WrongState(_) | QueueError::NotFound(_)) => &mut page.left,
            Err(error) => return Err(error),
        };
        *count += 1;
        Ok(())
    }
}
