//! Owns the threads that read from disk for async callers.
//!
//! Does not know the content.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, io, thread};

use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

/// The number of threads of one store, and so of concurrent reads. They are separate from the runtime's
/// blocking threads, so that mail is accepted and looked up even if those are all busy.
const READERS: u32 = 8;

type Read = Box<dyn FnOnce() + Send>;

/// The handle to the reader threads, which end when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Readers {
    queue: Arc<ReadQueue>,
    /// One permit per thread, so that the queue is bounded by the number of callers.
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Starts the threads.
    pub(in crate::store) fn start(name: &str) -> io::Result<Self> {
        let readers = Self {
            queue: Arc::default(),
            permits: Arc::new(Semaphore::new(READERS as usize)),
        };
        for _ in 0..READERS {
            let queue = Arc::clone(&readers.queue);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || queue.serve())?;
        }
        Ok(readers)
    }

    /// Runs a read on one of the threads. If the caller is cancelled, the read is still completed.
    ///
    /// # Errors
    /// `Dead` after [`Readers::close`]; `Unavailable` if the read panicked.
    pub(in crate::store) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Dead)?;
        let (answer, answered) = oneshot::channel();
        let read = move || {
            // A panic is in the log already, and the caller receives the error that there is no answer.
            if let Ok(found) = catch_unwind(AssertUnwindSafe(read)) {
                let _ = answer.send(found);
            }
            drop(permit);
        };
        self.queue.push(Box::new(read));
        answered.await.map_err(|_| StoreError::Unavailable)
    }

    /// Waits for the reads in progress, and refuses later ones.
    pub(in crate::store) async fn close(&self) {
        // Closed already: nothing is in progress.
        let all = self.permits.acquire_many(READERS).await;
        self.permits.close();
        drop(all);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The reads that no thread has begun.
///
/// A thread that ends a read takes the next one without being woken, which a channel behind a lock does
/// not allow: its idle reader holds the lock, and each read costs two wake-ups.
#[derive(Debug, Default)]
struct ReadQueue {
    reads: Mutex<QueuedReads>,
    changed: Condvar,
}

#[derive(Default)]
struct QueuedReads {
    waiting: VecDeque<Read>,
    is_closed: bool,
}

impl ReadQueue {
    fn push(&self, read: Read) {
        self.lock().waiting.push_back(read);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Runs reads until the queue is closed and empty.
    fn serve(&self) {
        while let Some(read) = self.next() {
            read();
        }
    }

    fn next(&self) -> Option<Read> {
        let idle = |reads: &mut QueuedReads| reads.waiting.is_empty() && !reads.is_closed;
        let reads = self.changed.wait_while(self.lock(), idle);
        let mut reads = reads.unwrap_or_else(PoisonError::into_inner);
        reads.waiting.pop_front()
    }

    /// Locks the queue. The lock is never held while a read runs, so a poisoned queue is intact.
    fn lock(&self) -> MutexGuard<'_, QueuedReads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for QueuedReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedReads")
            .field("waiting", &self.waiting.len())
            .field("is_closed", &self.is_closed)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_panic_takes_no_thread_with_it() {
        let readers = Readers::start("test-reader").unwrap();
        for _ in 0..2 * READERS {
            let read = readers.run(|| panic!("a read panics")).await;
            assert_eq!(read, Err::<(), _>(StoreError::Unavailable));
        }
        assert_eq!(readers.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_read() {
        let readers = Arc::new(Readers::start("test-reader").unwrap());
        let (go, goes) = channel();
        let slow = readers.run(move || goes.recv().unwrap_or(0));
        let mut slow = Box::pin(slow);
        assert!(futures_util::poll!(&mut slow).is_pending());
        let mut closing = Box::pin(readers.close());
        assert!(futures_util::poll!(&mut closing).is_pending());
        go.send(5).unwrap();
        closing.await;
        assert_eq!(slow.await, Ok(5));
        assert_eq!(readers.run(|| 1).await, Err(StoreError::Dead));
    }
}
