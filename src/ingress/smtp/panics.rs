//! Owns the end of a connection that panics: other connections continue.
//!
//! Does not hide the panic: the panic hook has logged it, and it is counted.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::metrics::Metrics;
use super::stream::SmtpStream;
use crate::smtp::response::Refusal;

/// The time limit for the last response.
const WRITE_MAX: Duration = Duration::from_secs(1);

/// Runs `work` and contains its panic.
pub(super) async fn catch_panic<T>(
    work: impl Future<Output = T>,
) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// Sends 421 for a session that has panicked, if the client reads it soon.
pub(super) async fn send_internal_error(wire: &mut SmtpStream, metrics: &Metrics) {
    metrics.refused(Refusal::InternalError);
    let mut line = Vec::new();
    Refusal::InternalError.write(&mut line);
    let said = async {
        wire.write_all(&line).await?;
        wire.flush().await
    };
    let _ = timeout(WRITE_MAX, said).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_own_connection_with_a_421() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut wire = SmtpStream::Tcp(listener.accept().await.unwrap().0);
        let broken = catch_panic(async {
            wire.write_all(b"220 hello\r\n").await.unwrap();
            tokio::task::yield_now().await;
            panic!("an internal error");
        });
        let panic = broken.await.unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"an internal error"));
        send_internal_error(&mut wire, &Metrics::default()).await;
        drop(wire);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("220 hello\r\n421 4.3.0 "), "{heard}");
        assert_eq!(catch_panic(async { 7 }).await.unwrap(), 7);
    }
}
