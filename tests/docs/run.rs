//! Runs of the commands that documents show.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{root, shell::Simple};

/// Commands that answer from files alone.
const OFFLINE: [&str; 8] = [
    "completion",
    "crd",
    "firewall",
    "grants",
    "import",
    "man",
    "validate",
    "version",
];
/// Flags with which these commands read a cluster.
const ONLINE: [&str; 2] = ["--context", "--from-cluster"];
/// Flags of `helm install` and `helm upgrade` that `helm template` does not have.
const OF_RELEASES: [&str; 5] = [
    "--create-namespace",
    "--install",
    "--reset-then-reuse-values",
    "--reuse-values",
    "--take-ownership",
];
/// Exit codes of success: the second one reports a difference or findings.
const SUCCESS: [i32; 2] = [0, 3];

/// Command that a document shows.
pub(crate) enum Shown<'a> {
    /// Words after the name of this program.
    Own(&'a [String]),
    /// Words after `helm install` or `helm upgrade`.
    Helm(Vec<&'a str>),
    Other,
}

impl Simple {
    pub(crate) fn shown(&self) -> Shown<'_> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        match &words[..] {
            ["peerrelay", ..] => Shown::Own(&self.words[1..]),
            ["kubectl", "peer-relay", ..] => Shown::Own(&self.words[2..]),
            ["helm", "install" | "upgrade", rest @ ..] => Shown::Helm(rest.to_vec()),
            _ => Shown::Other,
        }
    }

    /// Returns whether a test can run the command.
    pub(crate) fn runs(&self) -> bool {
        match self.shown() {
            Shown::Own(words) => {
                let is_offline = words.first().is_some_and(|name| OFFLINE.contains(&&**name));
                let is_online = words.iter().any(|word| ONLINE.contains(&&**word));
                is_offline && !is_online && !self.is_piped
            }
            Shown::Helm(_) => !self.is_piped,
            Shown::Other => false,
        }
    }
}

/// Directory with the files that documents name.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let smallest = root().join("deploy/examples/smallest.yaml");
        for name in ["relay.yaml", "relays.yaml"] {
            fs::copy(&smallest, dir.path().join(name)).unwrap();
        }
        let policy = "{\n\t\"grants\": [], // nothing is allowed\n}\n";
        fs::write(dir.path().join("policy.hujson"), policy).unwrap();
        let old = "apiVersion: tailscale.com/v1alpha1\nkind: PeerRelay\nmetadata: {name: edge}\nspec: {}\n";
        fs::write(dir.path().join("old.yaml"), old).unwrap();
        let deploy = dir.path().join("deploy");
        fs::create_dir(&deploy).unwrap();
        fs::copy(&smallest, deploy.join("relay.yaml")).unwrap();
        symlink(root().join("deploy/examples"), deploy.join("examples")).unwrap();
        symlink(root().join("charts"), dir.path().join("charts")).unwrap();
        Self(dir)
    }

    /// Runs the command. Returns what is wrong with it.
    pub(crate) fn run(&self, command: &Simple) -> Option<String> {
        match command.shown() {
            Shown::Own(words) => self.own(words, command.output.as_deref()),
            Shown::Helm(words) => self.helm(&words),
            Shown::Other => None,
        }
    }

    fn own(&self, words: &[String], output: Option<&str>) -> Option<String> {
        let mut process = program(self.0.path());
        process.args(words);
        let (code, out, error) = answer(&mut process);
        if let Some(file) = output {
            fs::write(self.0.path().join(file), out).unwrap();
        }
        (!SUCCESS.contains(&code)).then(|| format!("exit code {code}: {error}"))
    }

    /// Renders the chart with the same flags.
    fn helm(&self, words: &[&str]) -> Option<String> {
        let helm = skips::program("PEERRELAY_HELM")?;
        let mut process = Command::new(helm);
        process.current_dir(self.0.path()).arg("template");
        process.args(["--api-versions", "monitoring.coreos.com/v1"]);
        process.args(["--set", "image.repository=localhost/peerrelay"]);
        process.args(words.iter().filter(|word| !OF_RELEASES.contains(word)));
        let (code, _, error) = answer(&mut process);
        (code != 0).then_some(error)
    }
}

/// Returns what the program does not understand in these words. Nothing else is done: help is shown.
pub(crate) fn misunderstood(words: &[String]) -> Option<String> {
    let dir = TempDir::new().unwrap();
    let mut process = program(dir.path());
    process.args(words).arg("--help");
    let (code, _, error) = answer(&mut process);
    (code != 0).then_some(error)
}

fn program(dir: &Path) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    process.env_clear().env("HOME", dir).current_dir(dir);
    process
}

/// The exit code, standard output and standard error of a process without input.
fn answer(process: &mut Command) -> (i32, Vec<u8>, String) {
    let output = process.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), output.stdout, error)
}

#[test]
fn commands_with_a_mistake_are_found() {
    let shell = |text: &str| crate::shell::commands(text).remove(0);
    let files = Files::new();
    for wrong in ["peerrelay validate -f gone.yaml", "peerrelay crd --nope"] {
        assert!(files.run(&shell(wrong)).is_some(), "{wrong}");
    }
    assert_eq!(files.run(&shell("peerrelay validate -f relay.yaml")), None);
    let words = |text: &str| shell(text).words.split_off(1);
    assert!(misunderstood(&words("peerrelay status --nope")).is_some());
    assert!(misunderstood(&words("peerrelay relay --port abc")).is_some());
    assert_eq!(misunderstood(&words("peerrelay status -A -o wide")), None);
    assert!(!shell("peerrelay grants review a --context").runs());
    assert!(!shell("peerrelay import -f - | cat").runs() && !shell("kubectl get pods").runs());
}
