//! A check of a program's ELF header: an image holds static programs only.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// Program header that names a loader (`PT_INTERP`).
const INTERPRETER: u32 = 3;

/// Fails unless a program runs without loader and libraries.
pub(super) fn ensure_static(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    let needs_loader = needs_loader(&bytes)
        .with_context(|| format!("{} is no 64-bit ELF program", path.display()))?;
    ensure!(
        !needs_loader,
        "{} needs a loader and libraries, which an image does not have: link it with -C \
         target-feature=+crt-static",
        path.display()
    );
    Ok(())
}

/// Says whether one of the program headers of a little-endian 64-bit ELF file names a loader.
fn needs_loader(elf: &[u8]) -> Option<bool> {
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        let value = bytes
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        usize::try_from(value).ok()
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    // e_phoff, e_phentsize, e_phnum
    let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    (0..count).try_fold(false, |found, index| {
        let kind = number(table.checked_add(index * size)?, 4)?;
        Some(found || kind == INTERPRETER as usize)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn program_with_libraries_is_told_apart() {
        let shell = fs::read("/bin/sh").unwrap();
        assert_eq!(needs_loader(&shell), Some(true));
        let header = |kind: u8| {
            let mut elf = vec![0; 0x40 + 0x38];
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (elf[0x20], elf[0x36], elf[0x38], elf[0x40]) = (0x40, 0x38, 1, kind);
            elf
        };
        assert_eq!(needs_loader(&header(1)), Some(false));
        assert_eq!(needs_loader(&header(3)), Some(true));
        assert_eq!(needs_loader(&header(3)[..0x40]), None, "a short file");
        assert_eq!(needs_loader(b"#!/bin/sh"), None);
    }
}
