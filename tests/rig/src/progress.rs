//! Progress lines with the time since the start.

use std::{fmt::Display, time::Instant};

/// Prints what happens as `[  12s] kube-apiserver ready`.
pub struct Progress {
    start: Instant,
    print: Box<dyn Fn(&str) + Send + Sync>,
}

impl Progress {
    /// Prints to standard error.
    pub fn stderr() -> Self {
        Self::new(|line| eprintln!("{line}"))
    }

    /// Hands each line to `print`.
    pub fn new(print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            start: Instant::now(),
            print: Box::new(print),
        }
    }

    /// Reports one step.
    pub fn line(&self, text: impl Display) {
        (self.print)(&format!("[{:>4}s] {text}", self.start.elapsed().as_secs()));
    }
}
