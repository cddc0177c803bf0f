//! Release of memory that only the start of a process needs: program text, and heap that was freed.
//!
//! Joining a tailnet runs once through TLS, JSON and a command line, and for each touched page of text
//! the kernel maps the 64 KiB around it (`fault_around_bytes`, mm/memory.c). Text that an idle relay
//! needs again comes back from the page cache by itself.
#![allow(unsafe_code, reason = "madvise and malloc_trim have no safe wrappers")]

use std::{convert::Infallible, fs, io, ops::Range, ptr, time::Duration};

use tokio::time::sleep;

/// Time after which a process that is ready has settled.
const SETTLED: Duration = Duration::from_secs(5);
/// Interval of further releases: joining again and reports use the same text, and a list of all objects
/// fills the same heap.
const INTERVAL: Duration = Duration::from_secs(3600);

/// Releases memory once `ready` resolves to true, and every hour from then on. `false` ends that.
///
/// # Errors
/// None occurs. Where the kernel refuses, the text stays mapped.
pub(crate) async fn release_when_ready<F: Future<Output = bool>>(
    mut ready: impl FnMut() -> F,
) -> Result<Infallible, Infallible> {
    loop {
        if !ready().await {
            return std::future::pending().await;
        }
        sleep(SETTLED).await;
        trim();
        if let Err(error) = unmap() {
            tracing::debug!(%error, "program text stays mapped");
        }
        sleep(INTERVAL).await;
    }
}

/// Returns freed heap to the system, which glibc would keep.
pub(crate) fn trim() {
    // SAFETY: no argument is a pointer, and glibc takes its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Unmaps text that can be mapped again from its file.
fn unmap() -> io::Result<()> {
    for range in unchanged(&fs::read_to_string("/proc/self/smaps")?) {
        let start = ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: the range is a private mapping of a file, is not writable, and has no page that
        // differs from the file, so the next access faults in the same bytes.
        if unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Returns the mappings of files that are not writable and have no changed page. Relocated pages are
/// changed ones.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            candidate = mapping;
        } else if line.strip_prefix("Anonymous:").map(str::trim) == Some("0 kB") {
            found.extend(candidate.take());
        }
    }
    found
}

/// Parses the first line of a mapping, such as `55d0-55e0 r-xp 00001000 08:01 42    /usr/bin/peerrelay`.
/// The inner value is its range if it maps a file and is not writable.
fn mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let range = address(start)?..address(end)?;
    let rights = words.next()?;
    let file = words.nth(3).is_some_and(|name| name.starts_with('/'));
    Some((file && matches!(rights, "r-xp" | "r--p")).then_some(range))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 08:01 42                         /usr/bin/peerrelay
Rss:                   8 kB
Anonymous:             0 kB
THPeligible:           0
3000-9000 r-xp 00002000 08:01 42                         /usr/bin/peerrelay
Anonymous:             0 kB
9000-a000 r--p 00008000 08:01 42                         /usr/bin/peerrelay
Anonymous:             4 kB
a000-b000 rw-p 00009000 08:01 42                         /usr/bin/peerrelay
Anonymous:             0 kB
b000-c000 r--p 00000000 00:00 0                          [vvar]
Anonymous:             0 kB
c000-d000 r--p 00000000 00:00 0
Anonymous:             0 kB
";

    #[test]
    fn changed_and_anonymous_mappings_are_left_alone() {
        assert_eq!(unchanged(SMAPS), [0x1000..0x3000, 0x3000..0x9000]);
    }

    #[test]
    fn a_program_goes_on_without_its_mapped_text() {
        let text = |smaps: &str| unchanged(smaps).len();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(text(&smaps) > 1, "{smaps}");
        unmap().unwrap();
        assert_eq!(mapping("Size: 4 kB"), None);
    }
}
