//! Loads the program onto its maps, and names what the kernel refuses.

use std::{fs, io, path::Path};

use aya::{
    EbpfError, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};

use super::{
    NAME, OBJECT,
    error::LoadError,
    layout,
    maps::{CounterMaps, MAPS, Maps, capacity},
    pins,
};

/// The loaded object with its maps.
pub(super) type Loaded = (aya::Ebpf, Maps, CounterMaps);

/// Loads the program onto new maps.
pub(super) fn load(sessions: u32) -> Result<Loaded, LoadError> {
    load_object(None, sessions)
}

/// Loads the program onto the maps that are pinned in a directory, or onto new ones where those are of
/// another version or of other limits. After an error, nothing is pinned there.
pub(super) fn load_pinned(directory: &Path, sessions: u32) -> Result<Loaded, LoadError> {
    fs::create_dir_all(directory).map_err(LoadError::Pins)?;
    let checked = layout::check_pins(directory, sessions);
    let loaded = checked.and_then(|()| load_object(Some(directory), sessions));
    let loaded = loaded.or_else(|error| {
        tracing::info!(%error, "what an earlier process left in the kernel is replaced");
        pins::remove(directory).map_err(LoadError::Pins)?;
        fs::create_dir_all(directory).map_err(LoadError::Pins)?;
        load_object(Some(directory), sessions)
    });
    loaded.inspect_err(|_| drop(pins::remove(directory)))
}

fn load_object(pins: Option<&Path>, sessions: u32) -> Result<Loaded, LoadError> {
    let mut loader = EbpfLoader::new();
    // Nothing in the program is relocated by types, and parsing those of the kernel costs megabytes.
    loader.btf(None);
    for name in MAPS {
        if let Some(entries) = capacity(name, sessions) {
            loader.map_max_entries(name, entries);
        }
    }
    if let Some(directory) = pins {
        for name in MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| refusal(&error))?;
    let maps = Maps::take(&mut ebpf)?;
    let counters = CounterMaps::take(&mut ebpf)?;
    let program = ebpf.program_mut(NAME).ok_or(LoadError::NoProgram)?;
    let program: &mut SchedClassifier = program.try_into().map_err(LoadError::Program)?;
    program.load().map_err(rejection)?;
    Ok((ebpf, maps, counters))
}

/// The error for a program that the kernel did not load. A verifier that has a reason is quoted, whatever
/// error number the kernel answers: it answers EACCES for most of what a verifier rejects.
fn rejection(error: ProgramError) -> LoadError {
    if let ProgramError::LoadError { verifier_log, .. } = &error
        && let Some(reason) = verifier_reason(&verifier_log.to_string())
    {
        return LoadError::Refused(reason.to_owned());
    }
    refusal(&error.into())
}

/// The line of a verifier's log that has the reason: the last one before the counts at the end.
fn verifier_reason(log: &str) -> Option<&str> {
    let counts = ["verification time ", "stack depth ", "processed "];
    let is_reason = |line: &&str| !line.is_empty() && !counts.iter().any(|c| line.starts_with(c));
    log.lines().map(str::trim).rfind(is_reason)
}

/// The error for a refusal of the kernel, by the error number of its innermost cause.
fn refusal(error: &EbpfError) -> LoadError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = String::new();
    let mut code = None;
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            code = io.raw_os_error();
        }
        text = error.to_string();
        source = error.source();
    }
    let text = text.lines().last().unwrap_or_default().to_owned();
    match code {
        Some(libc::EPERM | libc::EACCES) => LoadError::NotPermitted(text),
        Some(libc::ENOSYS) => LoadError::NoBpf,
        _ => LoadError::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use super::verifier_reason;

    #[test]
    fn verifier_is_quoted_with_its_reason() {
        let log = "893: (07) r5 += 4\n\
                   R5 pointer arithmetic of map value goes out of range, prohibited for !root\n\
                   verification time 5157 usec\n\
                   stack depth 264+0\n\
                   processed 871 insns (limit 1000000) max_states_per_insn 1\n";
        assert_eq!(
            verifier_reason(log),
            Some("R5 pointer arithmetic of map value goes out of range, prohibited for !root")
        );
        assert_eq!(verifier_reason(""), None);
        assert_eq!(verifier_reason("processed 0 insns\n"), None);
    }
}
