//! Owns the writer thread: it collects waiting requests, writes them as one batch, and stops permanently
//! when the disk fails.
//!
//! Does not interpret the requests.

use tokio::sync::{mpsc, oneshot};

use crate::store::error::StoreError;

/// The number of queued requests; further callers wait.
const QUEUE_MAX: usize = 1024;
/// The number of requests in one batch; their bytes are bounded too.
const BATCH_REQUESTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// The owner of a journal: its work on the writer thread.
pub(super) trait BatchWriter: Send + 'static {
    /// A request, with the channel for its answer.
    type Request: Send + 'static;

    /// The approximate number of bytes that a request writes.
    fn request_bytes(request: &Self::Request) -> usize;

    /// Writes the requests as one batch and answers them.
    fn commit(&mut self, requests: Vec<Self::Request>) -> Result<(), WriterStopped>;

    /// One small step of work that can wait; true if there is more to do now.
    fn maintain(&mut self) -> Result<bool, WriterStopped>;

    /// Prepares for a fast next start.
    fn close(self);
}

/// The disk failed: the writer stops. The error was logged where it occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriterStopped;

/// The handle to a writer thread. When the last clone is dropped, the thread closes the journal and ends.
#[derive(Debug)]
pub(super) struct WriterHandle<R> {
    sender: mpsc::Sender<WriterMessage<R>>,
}

impl<R> Clone for WriterHandle<R> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

impl<R: Send + 'static> WriterHandle<R> {
    /// Starts the thread.
    pub(super) fn start<S: BatchWriter<Request = R>>(
        name: &str,
        batch_writer: S,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(batch_writer, receiver))?;
        Ok(Self { sender })
    }

    /// Submits one request: `make` gets the channel for the answer.
    pub(super) async fn submit<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> R,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let message = WriterMessage::Request(make(answer));
        let sent = self.sender.send(message).await;
        sent.map_err(|_| StoreError::Dead)?;
        answered.await.unwrap_or(Err(StoreError::Dead))
    }

    /// Resolves when the thread has ended, for any reason.
    pub(super) async fn ended(&self) {
        self.sender.closed().await;
    }

    /// True if the thread has ended, for any reason.
    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    /// Makes the thread do its maintenance and end, and waits for it.
    pub(super) async fn close(&self) {
        if self.sender.send(WriterMessage::Close).await.is_ok() {
            self.ended().await;
        }
    }

    /// A handle to wake the thread that does not keep it alive.
    pub(super) fn waker(&self) -> WriterWaker<R> {
        WriterWaker(self.sender.downgrade())
    }
}

/// Wakes a writer that may have maintenance to do.
#[derive(Debug)]
pub(super) struct WriterWaker<R>(mpsc::WeakSender<WriterMessage<R>>);

impl<R> WriterWaker<R> {
    /// Wakes the writer, unless it is awake.
    pub(super) fn wake(&self) {
        if let Some(sender) = self.0.upgrade() {
            // A full queue wakes it too.
            let _ = sender.try_send(WriterMessage::Wake);
        }
    }
}

#[derive(Debug)]
enum WriterMessage<R> {
    Request(R),
    Wake,
    Close,
}

fn run<S: BatchWriter>(
    mut batch_writer: S,
    mut receiver: mpsc::Receiver<WriterMessage<S::Request>>,
) {
    let mut more = false;
    let closes = loop {
        let first = if more {
            receiver.try_recv().ok()
        } else {
            match receiver.blocking_recv() {
                Some(message) => Some(message),
                None => break true,
            }
        };
        let (requests, closes) = collect_batch::<S>(first, &mut receiver);
        if !requests.is_empty() && batch_writer.commit(requests).is_err() {
            break false;
        }
        if closes {
            break true;
        }
        match batch_writer.maintain() {
            Ok(again) => more = again && !receiver.is_closed(),
            Err(WriterStopped) => break false,
        }
    };
    if closes {
        batch_writer.close();
    } else {
        drop(batch_writer);
    }
    // The receiver is dropped last, so that callers who wait for the end find the journal closed.
    drop(receiver);
}

/// Collects the requests after `first`, up to a batch; true if a close was requested.
fn collect_batch<S: BatchWriter>(
    first: Option<WriterMessage<S::Request>>,
    receiver: &mut mpsc::Receiver<WriterMessage<S::Request>>,
) -> (Vec<S::Request>, bool) {
    let mut requests = Vec::new();
    let mut bytes = 0;
    let mut next = first;
    while let Some(message) = next {
        match message {
            WriterMessage::Request(request) => {
                bytes += S::request_bytes(&request);
                requests.push(request);
            }
            WriterMessage::Wake => {}
            WriterMessage::Close => return (requests, true),
        }
        if requests.len() >= BATCH_REQUESTS_MAX || bytes >= BATCH_BYTES_MAX {
            break;
        }
        next = receiver.try_recv().ok();
    }
    (requests, false)
}
