//! Owns the threads that read from disk for async callers.
//!
//! Does not know the content.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use tokio::sync::{Semaphore, oneshot};

use crate::store::StoreError;

/// The number of threads of one store, and so of concurrent reads. They are separate from the runtime's
/// blocking threads, so that mail is accepted and looked up even if those are all busy.
const READERS: u32 = 8;

type Read = Box<dyn FnOnce() + Send>;

/// The handle to the reader threads, which end when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct Readers {
    sender: Sender<Read>,
    /// One permit per thread, so that the queue is bounded by the number of callers.
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Starts the threads.
    pub(in crate::store) fn start(name: &str) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || serve(&receiver))?;
        }
        Ok(Self {
            sender,
            permits: Arc::new(Semaphore::new(READERS as usize)),
        })
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
        let sent = self.sender.send(Box::new(read));
        sent.map_err(|_| StoreError::Dead)?;
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

fn serve(reads: &Mutex<Receiver<Read>>) {
    loop {
        let read = reads.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(read) = read else {
            return;
        };
        read();
    }
}

#[cfg(test)]
mod tests {
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
