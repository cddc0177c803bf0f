//! Builds tools at low priority while something else mostly waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Priority, Tools};
use crate::progress::Progress;

/// Builds sets of tools, one after the other, in a thread of its own. A drop ends it after the set
/// that is being built.
pub struct BackgroundBuild {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BackgroundBuild {
    /// Starts with the first of these sets of tools.
    ///
    /// A failed build is only reported: whoever needs the set builds it again and gets the error.
    pub fn start(sets: &'static [&'static str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let progress = Progress::stderr();
            for set in sets {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = Tools::build_set(set, Priority::Low, &progress) {
                    progress.line(format_args!("{error:#}"));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for BackgroundBuild {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the thread.
            drop(thread.join());
        }
    }
}
