//! Owns the long-lived tasks, and notices when one ends.
//!
//! Does not restart them, because a part that panicked is in an unknown state.

use std::collections::HashMap;

use anyhow::anyhow;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{self, Instant};
use tracing::{error, warn};

/// Long-lived tasks by their names.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<Result<(), anyhow::Error>>,
    names: HashMap<Id, (&'static str, AbortHandle)>,
}

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), anyhow::Error>> + Send + 'static,
    ) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), (name, handle));
    }

    /// Waits until a task ends, which is unexpected, and describes the end. Never resolves without tasks.
    pub(super) async fn next(&mut self) -> anyhow::Error {
        match self.set.join_next_with_id().await {
            Some(ended) => self.describe_end(ended),
            None => std::future::pending().await,
        }
    }

    /// Aborts the tasks of this name.
    pub(super) fn abort(&mut self, name: &str) {
        for (known, handle) in self.names.values() {
            if *known == name {
                handle.abort();
            }
        }
    }

    /// Waits for all tasks to end after they were asked to; at `limit` the rest is aborted.
    pub(super) async fn drain(&mut self, limit: Instant) {
        loop {
            match time::timeout_at(limit, self.set.join_next_with_id()).await {
                Ok(None) => return,
                Ok(Some(Ok((_, Ok(()))))) => {}
                Ok(Some(Err(error))) if error.is_cancelled() => {}
                Ok(Some(ended)) => {
                    let error = self.describe_end(ended);
                    error!("{error:#}");
                }
                Err(_) => {
                    warn!(
                        tasks = self.set.len(),
                        "aborted: the shutdown takes too long"
                    );
                    return self.set.shutdown().await;
                }
            }
        }
    }

    fn describe_end(
        &mut self,
        ended: Result<(Id, Result<(), anyhow::Error>), JoinError>,
    ) -> anyhow::Error {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).map_or("task", |(name, _)| name);
        match ended {
            Ok((_, Ok(()))) => anyhow!("{name} ended by itself"),
            Ok((_, Err(error))) => error.context(format!("{name} ended")),
            Err(error) if error.is_panic() => anyhow!("{name} panicked"),
            Err(_) => anyhow!("{name} was aborted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_task_is_reported_by_name() {
        let mut tasks = Tasks::default();
        tasks.spawn("clock", async { Ok(()) });
        assert_eq!(tasks.next().await.to_string(), "clock ended by itself");
        tasks.spawn("clock", async { Err(anyhow!("no spring")) });
        assert_eq!(
            format!("{:#}", tasks.next().await),
            "clock ended: no spring"
        );
        tasks.spawn("clock", async { panic!("as the test wants") });
        assert_eq!(tasks.next().await.to_string(), "clock panicked");
    }

    #[tokio::test]
    async fn a_drain_waits_for_tasks_and_aborts_the_rest() {
        let mut tasks = Tasks::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn("orderly", async {
            tokio::task::yield_now().await;
            sender.send(()).map_err(|()| anyhow!("unheard"))
        });
        let far = Instant::now() + time::Duration::from_secs(3600);
        tasks.drain(far).await;
        assert_eq!(receiver.await, Ok(()));
        tasks.spawn("endless", std::future::pending());
        tasks.drain(Instant::now()).await;
        assert!(tasks.set.is_empty());
    }

    #[tokio::test]
    async fn one_task_can_be_ended_alone() {
        let mut tasks = Tasks::default();
        tasks.spawn("endless", std::future::pending());
        tasks.abort("endless");
        assert_eq!(tasks.next().await.to_string(), "endless was aborted");
    }
}
