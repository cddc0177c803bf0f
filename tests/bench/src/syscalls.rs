//! System calls of a relay for each datagram, counted by perf in a round of its own.

use std::{path::Path, process::Stdio, thread, time::Duration};

use anyhow::{Context, Result};
use rig::command::{find, program};

use super::{
    case::{Case, Prepared},
    load,
    topology::Sink,
};

/// Until perf has attached.
const ATTACH: Duration = Duration::from_millis(400);

/// The count, while the relay with this process id carries the case; `None` without perf.
pub fn per_packet(pid: i32, ready: &Prepared, case: &Case, time: Duration) -> Result<Option<f64>> {
    if find(Path::new("perf")).is_none() {
        return Ok(None);
    }
    let _sink = Sink::open(&[ready.implementation])?;
    // It counts until `cat` ends, which does with its input.
    let mut perf = program("perf")
        .args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p"])
        .arg(pid.to_string())
        .args(["--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start perf")?;
    let input = perf.stdin.take();
    thread::sleep(ATTACH);
    let delivery = load::run(
        &ready.flows,
        case.size,
        &ready.arrivals,
        &ready.cpu,
        Duration::ZERO,
        time,
    );
    drop(input);
    let said = perf.wait_with_output()?;
    let calls = count(&String::from_utf8_lossy(&said.stderr));
    let datagrams = delivery?.datagrams.max(1) as f64;
    Ok(calls.map(|calls| calls / datagrams))
}

/// The first field of perf's only line; it is no number where the kernel has no such event.
fn count(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("sys_enter"))?;
    match line.split(',').next()? {
        // The relay has not run at all.
        "<not counted>" => Some(0.0),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_a_number_or_nothing() {
        assert_eq!(
            count("1234,,raw_syscalls:sys_enter,1,100.00,,\n"),
            Some(1234.0)
        );
        assert_eq!(
            count("<not supported>,,raw_syscalls:sys_enter,0,0,,\n"),
            None
        );
        assert_eq!(count("perf: no permission"), None);
    }
}
