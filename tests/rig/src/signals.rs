//! The two uses of signals: noticing an interrupt, and stopping a process by its id.

#![allow(unsafe_code, reason = "signal(2) and kill(2) have no safe form in std")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Records SIGINT and SIGTERM from now on, for [`check`], instead of ending the process.
pub fn install() {
    let handler = record as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Fails once the process was asked to stop.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits; fails as soon as the process is asked to stop.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Forgets an interrupt, so that what follows can clean up; says whether there was one.
pub fn acknowledge() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Asks a process to end.
pub fn terminate(pid: i32) {
    send(pid, libc::SIGTERM);
}

/// Ends a process with SIGKILL.
pub fn kill(pid: i32) {
    send(pid, libc::SIGKILL);
}

fn send(pid: i32, signal: libc::c_int) {
    // Zero and negative numbers would address process groups.
    if pid > 1 {
        // SAFETY: kill takes no pointers; a process that is gone is reported as an error.
        unsafe { libc::kill(pid, signal) };
    }
}

extern "C" fn record(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}
