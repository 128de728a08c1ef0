//! Owns the writer thread: it takes whatever waits, has it written as one batch, and stops for good when the disk fails.
//!
//! Does not know what is written.

use tokio::sync::{mpsc, oneshot};

use crate::store::error::StoreError;

/// Requests that may wait for the writer; who comes then waits to be let in.
const QUEUE_MAX: usize = 1024;
/// Requests, and about as many bytes, taken into one batch.
const BATCH_REQUESTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 8 << 20;

/// Whoever owns a journal: what is done on the writer's thread.
pub(super) trait BatchWriter: Send + 'static {
    /// A request, with the channel for its answer.
    type Request: Send + 'static;

    /// About how many bytes a request writes.
    fn request_bytes(request: &Self::Request) -> usize;

    /// Writes the requests as one batch and answers them.
    fn commit(&mut self, requests: Vec<Self::Request>) -> Result<(), WriterStopped>;

    /// One small piece of what can wait; true if there is more to do now.
    fn maintain(&mut self) -> Result<bool, WriterStopped>;

    /// Leaves everything so that the next start has little to do.
    fn close(self);
}

/// The disk failed: the writer stops. It was told to the log where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriterStopped;

/// The way to a writer thread. Its last clone gone, the thread closes the journal and ends.
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
        scribe: S,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(scribe, receiver))?;
        Ok(Self { sender })
    }

    /// Has one request written: `make` gets the place to answer.
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

    /// Resolves when the thread has ended, for whatever reason.
    pub(super) async fn ended(&self) {
        self.sender.closed().await;
    }

    /// Has the thread ended, for whatever reason?
    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    /// Has the thread do its upkeep and end, and waits for it.
    pub(super) async fn close(&self) {
        if self.sender.send(WriterMessage::Close).await.is_ok() {
            self.ended().await;
        }
    }

    /// A way to wake the thread that does not keep it alive.
    pub(super) fn waker(&self) -> WriterWaker<R> {
        WriterWaker(self.sender.downgrade())
    }
}

/// Wakes a writer that may have upkeep to do.
#[derive(Debug)]
pub(super) struct WriterWaker<R>(mpsc::WeakSender<WriterMessage<R>>);

impl<R> WriterWaker<R> {
    /// Wakes the writer, if it is not awake anyway.
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

fn run<S: BatchWriter>(mut scribe: S, mut receiver: mpsc::Receiver<WriterMessage<S::Request>>) {
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
        if !requests.is_empty() && scribe.commit(requests).is_err() {
            break false;
        }
        if closes {
            break true;
        }
        match scribe.maintain() {
            Ok(again) => more = again && !receiver.is_closed(),
            Err(WriterStopped) => break false,
        }
    };
    if closes {
        scribe.close();
    } else {
        drop(scribe);
    }
    // The receiver goes last: whoever waits for the end finds the journal closed.
    drop(receiver);
}

/// Takes what waits behind `first`, up to a batch. True: it was asked to close.
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
