//! The text of `/metrics`, kept for a moment.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::{sync::Mutex, time::Instant};

/// Renders metrics in Prometheus text format.
pub type Render = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// Time for which a text is given again: less than any interval of scrapes.
pub(super) const KEPT: Duration = Duration::from_millis(500);

/// The answer to `/metrics`; clones share the text that is kept.
#[derive(Clone)]
pub(super) struct Answer {
    render: Render,
    kept: Duration,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Answer {
    /// Gives a text again for as long as `kept`.
    pub(super) fn new(render: Render, kept: Duration) -> Self {
        Self {
            render,
            kept,
            last: Arc::default(),
        }
    }

    /// The text; of those who ask at the same time one renders, and the others wait for it.
    pub(super) async fn text(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < self.kept
        {
            return text.clone();
        }
        let text = Bytes::from((self.render)().await);
        // Nothing is held in memory that is not given again.
        *last = (!self.kept.is_zero()).then(|| (Instant::now(), text.clone()));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn renderings(kept: Duration) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let render: Render = Arc::new(move || {
            let count = counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                tokio::task::yield_now().await;
                format!("n {count}\n")
            })
        });
        let answer = Answer::new(render, kept);
        futures::future::join_all((0..20).map(|_| answer.text())).await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_rendering() {
        assert_eq!(renderings(Duration::from_secs(3600)).await, 1);
        assert_eq!(renderings(Duration::ZERO).await, 20);
    }
}
