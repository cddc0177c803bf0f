//! Supervision of the tasks of a process: the end of any task ends the process with a reason.

use std::{future::Future, io, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};

/// Time in which tasks end that are told to. Only one that does not wait for anything needs longer.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The tasks of a process, and its signals.
pub struct Supervisor {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    terminate: Signal,
    interrupt: Signal,
}

impl Supervisor {
    /// Makes a supervisor without tasks. From now on SIGTERM and SIGINT do not kill the process.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            tasks: JoinSet::new(),
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Starts a task that should run for as long as the process.
    pub fn spawn<T, E>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<T, E>> + Send + 'static,
    ) where
        E: Into<anyhow::Error>,
    {
        self.tasks
            .spawn(async move { (name, task.await.map(drop).map_err(Into::into)) });
    }

    /// Waits for a stop signal, and then runs `drain` for at most `drain_timeout`. A second signal ends
    /// that at once. The tasks have ended when this returns, so that what they held is free.
    ///
    /// # Errors
    /// A task has ended; the error names it and has its error as the source.
    pub async fn run(
        mut self,
        drain: impl Future<Output = ()>,
        drain_timeout: Duration,
    ) -> anyhow::Result<()> {
        tokio::select! {
            Some(ended) = self.tasks.join_next() => {
                let (name, result) = ended.context("a task panicked")?;
                result.with_context(|| format!("{name} failed"))?;
                // A process without one of its tasks would look alive and do only a part of its work.
                // Whoever started the process starts it again with all tasks.
                bail!("{name} ended");
            }
            () = stop_signal(&mut self.terminate, &mut self.interrupt) => {}
        }
        tracing::info!("stopping; a second signal stops at once");
        tokio::select! {
            _ = timeout(drain_timeout, drain) => {}
            () = stop_signal(&mut self.terminate, &mut self.interrupt) => {}
        }
        end(&mut self.tasks).await;
        Ok(())
    }
}

/// Ends tasks and waits for that: a set that is only dropped tells its tasks to end, and they hold files and locks
/// until another thread has dropped them.
async fn end<T: 'static>(tasks: &mut JoinSet<T>) {
    timeout(END_TIMEOUT, tasks.shutdown()).await.ok();
}

/// Waits for a stop signal.
async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc, thread};

    use tokio::task::yield_now;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ended_tasks_hold_nothing_any_more() {
        let held = Arc::new(());
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let own = Arc::clone(&held);
            tasks.spawn(async move {
                // It is busy when it is told to end.
                for _ in 0..50 {
                    thread::sleep(Duration::from_millis(1));
                    yield_now().await;
                }
                pending::<()>().await;
                drop(own);
            });
        }
        end(&mut tasks).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
