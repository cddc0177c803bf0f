//! Programs that run to their end.

use std::{
    env,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::signals;

/// A program that is looked up in PATH and in the system directories.
pub fn program(name: impl AsRef<Path>) -> Command {
    let name = name.as_ref();
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null());
    command
}

/// A program as [`program`] finds it, in a network namespace.
///
/// `ip netns exec` would also mount a new /sys, without cgroups.
pub fn program_in(namespace: &str, name: impl AsRef<Path>) -> Command {
    let name = name.as_ref();
    let mut command = program("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .arg(find(name).unwrap_or_else(|| name.into()));
    command
}

/// Runs a program, and returns its standard output; an error has its standard error as well.
pub fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, &[])
}

/// Runs a program whose output is for programs: the error has its standard error only.
pub fn query(command: &mut Command) -> Result<String> {
    let shown = display(command);
    let (status, stdout, stderr) = finish(command, &[])?;
    ensure!(status.success(), "{shown}: {status}: {}", stderr.trim());
    Ok(stdout)
}

/// Runs a program as [`run`] does, with this standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let shown = display(command);
    let (status, stdout, stderr) = finish(command, input)?;
    if !status.success() {
        bail!("{shown}: {status}: {} {}", stderr.trim(), stdout.trim());
    }
    Ok(stdout)
}

/// Status, standard output and standard error.
///
/// Standard error is empty after success: a program that has ended well may have left it to others.
fn finish(command: &mut Command, input: &[u8]) -> Result<(ExitStatus, String, String)> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", display(command)))?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let writer = child.stdin.take().map(|mut stdin| {
        let input = input.to_vec();
        // A program may end before it read everything; its exit status shows whether that matters.
        thread::spawn(move || drop(stdin.write_all(&input)))
    });
    let status = wait(&mut child)?;
    if let Some(writer) = writer {
        drop(writer.join());
    }
    let stdout = stdout.map(joined).unwrap_or_default();
    let stderr = stderr.filter(|_| !status.success());
    Ok((status, stdout, stderr.map(joined).unwrap_or_default()))
}

/// The path of a program, if it is installed.
pub fn find(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Err(interrupted) = signals::check() {
            child.kill().ok();
            child.wait().ok();
            return Err(interrupted);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn collect(mut source: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // The output before an error is shown.
        drop(source.read_to_end(&mut bytes));
        bytes
    })
}

fn joined(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

fn display(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn what_is_written_for_programs_is_not_in_the_error() {
        let script = "echo for-programs; echo for-people >&2; exit 1";
        let mut command = program("sh");
        command.args(["-c", script]);
        let without_script = |error: anyhow::Error| error.to_string().replace(script, "");
        let queried = without_script(query(&mut command).unwrap_err());
        assert!(queried.contains("for-people") && !queried.contains("for-programs"));
        let ran = without_script(run(&mut command).unwrap_err());
        assert!(ran.contains("for-people") && ran.contains("for-programs"));
    }
}
